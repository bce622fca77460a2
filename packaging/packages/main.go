// Command packages makes a deb and an rpm of a program that has a systemd unit.
//
// A package holds the program in /usr/bin, its unit, and in its documentation an example of its configuration, its bill of
// materials and the licence. It starts nothing: without a configuration there is nothing to do. The same files and
// arguments give the same bytes.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// about are the programs that have a unit, and what a list of packages says of them.
var about = map[string]struct{ summary, example string }{
	"pseudo-agent": {"reports a Kubernetes cluster to deepflow-server", "config.example.yaml"},
	"pod-agent":    {"attaches networks to running Pods of a node", "config.podagent.example.yaml"},
}

type options struct {
	program, version, arch, source string
	built, root                    string
	created                        time.Time
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "packages:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	var o options
	flags := flag.NewFlagSet("packages", flag.ContinueOnError)
	flags.StringVar(&o.program, "program", "", "`name` of the program")
	flags.StringVar(&o.version, "version", "", "version of the program")
	flags.StringVar(&o.arch, "arch", "", "its `architecture` as Go names it")
	flags.StringVar(&o.built, "built", "", "`folder` that holds the program and its NAME.cdx.json")
	flags.StringVar(&o.root, "root", "", "`folder` of the repository")
	flags.StringVar(&o.source, "source", "", "`URL` of the code")
	created := flags.Int64("created", 0, "date of all files in `seconds` since 1970")
	folder := flags.String("o", "", "`folder` to write PROGRAM-VERSION-linux-ARCH.deb and .rpm to")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	if o.program == "" || o.version == "" || o.arch == "" || o.built == "" || o.root == "" || *folder == "" {
		return errors.New("-program, -version, -arch, -built, -root and -o are needed")
	}
	o.created = time.Unix(*created, 0).UTC()
	for _, format := range []string{"deb", "rpm"} {
		content, err := build(o, format)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", format, o.program, err)
		}
		file := filepath.Join(*folder, fmt.Sprintf("%s-%s-linux-%s.%s", o.program, o.version, o.arch, format))
		if err := os.WriteFile(file, content, 0o644); err != nil { //nolint:gosec // for everybody to read
			return fmt.Errorf("write: %w", err)
		}
		fmt.Fprintf(out, "package  %s\n", file)
	}
	return nil
}

// semantic is a version with a pre-release and build metadata.
var semantic = regexp.MustCompile(`^v?(\d+\.\d+\.\d+)(?:-([0-9A-Za-z.-]+))?(?:\+([0-9A-Za-z.-]+))?$`)

// versions are the parts that a package's version is made of. A pre-release comes before its release; what is of no release
// (a commit's name) before all.
func versions(version string) (release, pre, metadata string) {
	m := semantic.FindStringSubmatch(version)
	if m == nil {
		return "0.0.0", regexp.MustCompile(`[^0-9A-Za-z.]+`).ReplaceAllString(version, "."), ""
	}
	return m[1], strings.ReplaceAll(m[2], "-", "."), strings.ReplaceAll(m[3], "-", ".")
}

func build(o options, format string) (content []byte, err error) {
	is, known := about[o.program]
	if !known {
		return nil, errors.New("it has no systemd unit")
	}
	tmp, err := os.MkdirTemp("", "packages-")
	if err != nil {
		return nil, fmt.Errorf("working folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	generated, err := generate(o, tmp)
	if err != nil {
		return nil, err
	}
	release, pre, metadata := versions(o.version)
	info := nfpm.WithDefaults(&nfpm.Info{
		Name: o.program, Arch: o.arch, Platform: "linux", Version: release, VersionSchema: "none", Prerelease: pre, VersionMetadata: metadata,
		Section: "net", Priority: "optional", Maintainer: "the maintainers of pseudo-agent <maintainers@invalid>",
		Description: is.summary, Homepage: o.source, License: "Apache-2.0", MTime: o.created,
		Overridables: nfpm.Overridables{
			Recommends: []string{"systemd"},
			Scripts: nfpm.Scripts{
				PostInstall: generated["postinstall"], PreRemove: generated["preremove"], PostRemove: generated["postremove"],
			},
			RPM: nfpm.RPM{BuildHost: "localhost", Summary: is.summary},
		},
	})
	documents := "/usr/share/doc/" + o.program + "/"
	// dpkg removes an empty folder by itself, rpm one that belongs to the package.
	info.Contents = append(info.Contents, &files.Content{
		Destination: documents, Type: files.TypeDir, FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root", Mode: 0o755, MTime: o.created},
	})
	for _, f := range []struct {
		source, destination string
		mode                os.FileMode
	}{
		{filepath.Join(o.built, o.program), "/usr/bin/" + o.program, 0o755},
		{generated["unit"], "/usr/lib/systemd/system/" + o.program + ".service", 0o644},
		{filepath.Join(o.root, is.example), documents + is.example, 0o644},
		{filepath.Join(o.built, o.program+".cdx.json"), documents + o.program + ".cdx.json", 0o644},
		{filepath.Join(o.root, "LICENSE"), documents + "copyright", 0o644},
	} {
		info.Contents = append(info.Contents, &files.Content{
			Source: f.source, Destination: f.destination,
			FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root", Mode: f.mode, MTime: o.created},
		})
	}
	if err := nfpm.PrepareForPackager(info, format); err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	packager, err := nfpm.Get(format)
	if err != nil {
		return nil, fmt.Errorf("format: %w", err)
	}
	var out bytes.Buffer
	if err := packager.Package(info, &out); err != nil {
		return nil, fmt.Errorf("write: %w", err)
	}
	return out.Bytes(), nil
}

// scripts are run by dpkg and rpm; the first argument is dpkg's word, or how many versions rpm leaves installed. A service
// that runs is started again by an upgrade, and is stopped by a removal. Without systemd, as in an image, nothing happens.
var scripts = map[string]string{
	"postinstall": `#!/bin/sh
set -e
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
systemctl try-restart PROGRAM.service
`,
	"preremove": `#!/bin/sh
set -e
case "$1" in remove|0) ;; *) exit 0 ;; esac
command -v systemctl >/dev/null || exit 0
[ ! -d /run/systemd/system ] || systemctl stop PROGRAM.service
systemctl disable --quiet PROGRAM.service
`,
	"postremove": `#!/bin/sh
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
`,
}

// generate writes the scripts, and the unit with the places where packages put things, and returns their files.
func generate(o options, dir string) (map[string]string, error) {
	unit, err := os.ReadFile(filepath.Join(o.root, "packaging", o.program+".service"))
	if err != nil {
		return nil, fmt.Errorf("unit: %w", err)
	}
	places := strings.NewReplacer(
		"/usr/local/bin/", "/usr/bin/",
		"file:///usr/local/share/doc/pseudo-agent/docs/", o.source+"/blob/main/docs/",
	)
	texts := map[string]string{"unit": places.Replace(string(unit))}
	if strings.Contains(texts["unit"], "/usr/local") {
		return nil, errors.New("the unit names /usr/local, where no package puts anything")
	}
	for name, text := range scripts {
		texts[name] = strings.ReplaceAll(text, "PROGRAM", o.program)
	}
	out := map[string]string{}
	for name, text := range texts {
		out[name] = filepath.Join(dir, name)
		if err := os.WriteFile(out[name], []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("write: %w", err)
		}
	}
	return out, nil
}
