package reporter

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"
)

// peerEnv makes the test binary a peer that reads reports and forgets them.
const peerEnv = "PSEUDO_TEST_PEER"

func TestMain(m *testing.M) {
	if os.Getenv(peerEnv) != "" {
		servePeer()
		return
	}
	goleak.VerifyTestMain(m)
}

// startPeer runs the peer in a process of its own and returns its address.
func startPeer(b *testing.B) string {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), peerEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close() // the peer ends with its standard input
		_ = cmd.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return address[:len(address)-1]
}

func servePeer() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	var plain http.Protocols
	plain.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: &plain, HTTP2: &http.HTTP2Config{
		MaxReceiveBufferPerConnection: 8 << 20, MaxReceiveBufferPerStream: 4 << 20,
	}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		answer := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
		prefix := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(answer)))
		_, _ = w.Write(append(prefix, answer...))
		w.Header().Set("Grpc-Status", "0")
	})}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	_ = server.Serve(l)
}

// incompressible makes text of n bytes that zlib cannot shrink much.
func incompressible(seed, n int) string {
	rnd := rand.New(rand.NewPCG(uint64(seed), 1))
	const alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[rnd.IntN(len(alphabet))]
	}
	return string(b)
}
