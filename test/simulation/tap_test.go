package simulation

import (
	"encoding/binary"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

// reports returns a function that is given the bytes that a gRPC client sends, in any portions, and calls see for each
// KubernetesAPISync of the cluster among them. Nothing else of HTTP/2 is looked at but DATA frames.
func reports(cluster string, see func(*agent.KubernetesAPISyncRequest)) func([]byte) {
	const preface, header = 24, 9 // bytes
	var mu sync.Mutex
	var buffer []byte
	skipped := false
	streams := map[uint32][]byte{}
	return func(b []byte) {
		mu.Lock()
		defer mu.Unlock()
		buffer = append(buffer, b...)
		if !skipped {
			if len(buffer) < preface {
				return
			}
			buffer, skipped = buffer[preface:], true
		}
		for len(buffer) >= header {
			length := int(buffer[0])<<16 | int(buffer[1])<<8 | int(buffer[2])
			if len(buffer) < header+length {
				return
			}
			const data = 0
			if kind := buffer[3]; kind == data && length > 0 {
				id := binary.BigEndian.Uint32(buffer[5:]) & (1<<31 - 1)
				streams[id] = append(streams[id], buffer[header:header+length]...)
				if r := request(streams[id]); r != nil {
					delete(streams, id)
					// The other messages have no bytes where a report has the cluster's id.
					if r.GetClusterId() == cluster && r.GetVersion() != 0 {
						see(r)
					}
				}
			}
			buffer = buffer[header+length:]
		}
	}
}

// request decodes a gRPC message that is complete.
func request(b []byte) *agent.KubernetesAPISyncRequest {
	const prefix = 5 // bytes
	if len(b) < prefix || len(b) < prefix+int(binary.BigEndian.Uint32(b[1:])) {
		return nil
	}
	var r agent.KubernetesAPISyncRequest
	if err := proto.Unmarshal(b[prefix:], &r); err != nil {
		return &agent.KubernetesAPISyncRequest{} // another message
	}
	return &r
}
