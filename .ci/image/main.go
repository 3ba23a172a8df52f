// Command image builds the container image as the Dockerfile does, without a
// daemon: for each platform, and the same to the byte wherever it is built. Its
// result is an OCI image layout in a tar file.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// source is the image's sources, seen from here.
const source = "../.."

// predecessor is the stripped node agent of aws-multi-eni-controller v1.3.8.
const predecessor = 37.0

func main() {
	version := flag.String("version", "dev", "of the agent")
	out := flag.String("o", "eniagent-image.tar", "file to write")
	flag.Parse()
	if err := run(os.Stdout, *version, *out); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(to io.Writer, version, out string) (err error) {
	dir, err := os.MkdirTemp("", "eniagent-image-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	built, err := build(source, version, dir)
	if err != nil {
		return err
	}
	for _, b := range built.binaries {
		fmt.Fprintf(to, "%-12s stripped binary %5.1f MB, the predecessor's %.1f MB; image %5.1f MB\n", b.platform.String(), mega(b.size), predecessor, mega(b.packed))
	}
	digest, err := built.index.Digest()
	if err != nil {
		return err
	}
	if err := pack(built.index, version, filepath.Join(dir, "layout"), out); err != nil {
		return err
	}
	fmt.Fprintf(to, "%s %s\n", out, digest)
	return nil
}

func mega(bytes int64) float64 { return float64(bytes) / 1e6 }

// result is an index of one image a platform.
type result struct {
	index    v1.ImageIndex
	binaries []binary
}

type binary struct {
	platform     v1.Platform
	size, packed int64
}

func platforms() []v1.Platform {
	return []v1.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}}
}

// build makes the images of the sources in root; dir is for the binaries.
func build(root, version, dir string) (r result, err error) {
	license, err := os.ReadFile(filepath.Join(root, "LICENSE"))
	if err != nil {
		return r, err
	}
	r.index = mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range platforms() {
		agent, err := compile(root, version, p, filepath.Join(dir, p.Architecture))
		if err != nil {
			return r, err
		}
		img, err := image(p, version, license, agent)
		if err != nil {
			return r, err
		}
		packed, err := sizeOf(img)
		if err != nil {
			return r, err
		}
		r.binaries = append(r.binaries, binary{p, int64(len(agent)), packed})
		r.index = mutate.AppendManifests(r.index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}})
	}
	return r, nil
}

// compile is `make build`, as in the Dockerfile, for a platform.
func compile(root, version string, p v1.Platform, out string) ([]byte, error) {
	out, err := filepath.Abs(out)
	if err != nil {
		return nil, err
	}
	//nolint:forbidigo // a tool of the build, which has no other way to make
	cmd := exec.Command("make", "--no-print-directory", "--silent", "-C", root, "build", "VERSION="+version, "OUT="+out)
	cmd.Env = append(os.Environ(), "GOOS="+p.OS, "GOARCH="+p.Architecture, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOWORK=off")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("build for %s: %w", p.String(), err)
	}
	return os.ReadFile(out)
}

// image is what the Dockerfile says below its last FROM.
func image(p v1.Platform, version string, license, agent []byte) (v1.Image, error) {
	config := v1.Config{
		Labels: map[string]string{
			"org.opencontainers.image.title":       "eniagent",
			"org.opencontainers.image.description": "Crash-safe agent for a node's extra network interfaces",
			"org.opencontainers.image.version":     version,
			"org.opencontainers.image.licenses":    "Apache-2.0",
		},
		User:       "0:0",
		Entrypoint: []string{"/agent"},
		Cmd:        []string{"run"},
		WorkingDir: "/",
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, file := range []struct {
		name    string
		mode    int64
		content []byte
	}{{"LICENSE", 0o644, license}, {"agent", 0o755, agent}} {
		layer, err := layerOf(file.name, file.mode, file.content)
		if err != nil {
			return nil, err
		}
		add := mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{CreatedBy: "COPY " + file.name + " /" + file.name}}
		if img, err = mutate.Append(img, add); err != nil {
			return nil, err
		}
	}
	img, err := mutate.Config(img, config)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = p.OS, p.Architecture
	return mutate.ConfigFile(img, file)
}

// layerOf is a layer with one file of root's, from no particular time.
func layerOf(name string, mode int64, content []byte) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := write(w, name, mode, bytes.NewReader(content), int64(len(content))); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer))
}

func write(w *tar.Writer, name string, mode int64, r io.Reader, size int64) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size, Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	_, err := io.Copy(w, r)
	return err
}

func sizeOf(img v1.Image) (int64, error) {
	layers, err := img.Layers()
	if err != nil {
		return 0, err
	}
	var all int64
	for _, l := range layers {
		n, err := l.Size()
		if err != nil {
			return 0, err
		}
		all += n
	}
	return all, nil
}

// pack writes an index as a layout, and that into a tar file.
func pack(index v1.ImageIndex, version, dir, out string) (err error) {
	at, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	name := map[string]string{"org.opencontainers.image.ref.name": version}
	if err := at.AppendIndex(index, layout.WithAnnotations(name)); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(out), ".eniagent-image-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := errors.Join(tarOf(f, dir), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), out)
}

// tarOf writes the files below a directory, in the order of their names.
func tarOf(to io.Writer, dir string) error {
	w := tar.NewWriter(to)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return write(w, name, 0o644, bytes.NewReader(content), int64(len(content)))
	})
	return errors.Join(err, w.Close())
}
