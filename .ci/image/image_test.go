package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const version = "v0.0.0-test"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// here is the image of these sources, built once.
//
//nolint:gochecknoglobals // for all tests
var here = sync.OnceValues(func() (result, error) {
	dir, err := os.MkdirTemp("", "eniagent-image-")
	if err != nil {
		return result{}, err
	}
	r, err := build(source, version, dir)
	return r, errors.Join(err, os.RemoveAll(dir))
})

// TestReproducible: the same sources elsewhere, and later, are the same image,
// and the same file.
func TestReproducible(t *testing.T) {
	first, err := here()
	must(t, err)
	elsewhere := filepath.Join(t.TempDir(), "sources")
	copyTree(t, source, elsewhere)
	second, err := build(elsewhere, version, t.TempDir())
	must(t, err)
	a, err := first.index.Digest()
	must(t, err)
	b, err := second.index.Digest()
	must(t, err)
	if a != b {
		t.Errorf("built here it is %s, elsewhere %s", a, b)
	}
	files := make([][]byte, 2)
	for i, r := range []result{first, second} {
		dir := t.TempDir()
		out := filepath.Join(dir, "image.tar")
		must(t, pack(r.index, version, filepath.Join(dir, "layout"), out))
		files[i], err = os.ReadFile(out)
		must(t, err)
	}
	if !bytes.Equal(files[0], files[1]) {
		t.Error("the files differ")
	}
	other, err := build(source, version+"1", t.TempDir())
	must(t, err)
	if c, err := other.index.Digest(); err != nil || c == a {
		t.Errorf("another version is the same image: %v", err)
	}
}

// copyTree copies what a build reads, of files that git would take.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = from
	out, err := cmd.Output()
	must(t, err)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		info, err := os.Lstat(filepath.Join(from, name))
		if errors.Is(err, os.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			continue // deleted, or a link, of which the build reads none
		}
		must(t, err)
		content, err := os.ReadFile(filepath.Join(from, name))
		must(t, err)
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(to, name), content, info.Mode().Perm()))
	}
}

// TestTheFileIsALayout that others can read, with an image for each platform.
func TestTheFileIsALayout(t *testing.T) {
	r, err := here()
	must(t, err)
	dir := t.TempDir()
	out := filepath.Join(dir, "image.tar")
	must(t, pack(r.index, version, filepath.Join(dir, "layout"), out))
	unpacked := filepath.Join(dir, "unpacked")
	f, err := os.Open(out)
	must(t, err)
	defer func() { _ = f.Close() }()
	for name, content := range filesIn(t, f) {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(unpacked, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(unpacked, name), content.text, 0o600))
	}
	index, err := layout.ImageIndexFromPath(unpacked)
	must(t, err)
	manifest, err := index.IndexManifest()
	must(t, err)
	if len(manifest.Manifests) != 1 || manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != version {
		t.Fatalf("the layout has %+v", manifest.Manifests)
	}
	inner, err := index.ImageIndex(manifest.Manifests[0].Digest)
	must(t, err)
	must(t, validate.Index(inner))
	manifest, err = inner.IndexManifest()
	must(t, err)
	var got []string
	for _, m := range manifest.Manifests {
		got = append(got, m.Platform.String())
	}
	if want := []string{"linux/amd64", "linux/arm64"}; !slices.Equal(got, want) {
		t.Errorf("it is for %v, want %v", got, want)
	}
}

type entry struct {
	text     []byte
	mode     int64
	uid, gid int
}

// filesIn are the files of a tar.
func filesIn(t *testing.T, r io.Reader) map[string]entry {
	t.Helper()
	all := map[string]entry{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		text, err := io.ReadAll(tr)
		must(t, err)
		if !h.ModTime.IsZero() && h.ModTime.Unix() != 0 {
			t.Errorf("%s is from %s", h.Name, h.ModTime)
		}
		all[h.Name] = entry{text, h.Mode, h.Uid, h.Gid}
	}
}

// dockerfile is what the Dockerfile's last stage says.
type dockerfile struct {
	labels          map[string]string
	user            string
	entrypoint, cmd []string
	files           map[string]string // in the image: in the sources
}

func readDockerfile(t *testing.T) dockerfile {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(source, "Dockerfile"))
	must(t, err)
	_, last, found := strings.Cut(string(text), "\nFROM scratch\n")
	if !found {
		t.Fatal("the Dockerfile's last stage is not FROM scratch")
	}
	d := dockerfile{labels: map[string]string{}, files: map[string]string{}}
	for line := range strings.SplitSeq(strings.ReplaceAll(last, "\\\n", " "), "\n") {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "", "#", "ARG":
		case "LABEL":
			for _, m := range regexp.MustCompile(`(\S+)="([^"]*)"`).FindAllStringSubmatch(rest, -1) {
				d.labels[m[1]] = strings.ReplaceAll(m[2], "$VERSION", version)
			}
		case "COPY":
			f := strings.Fields(rest) // --from=build /src/LICENSE /LICENSE
			d.files[strings.TrimPrefix(f[2], "/")] = strings.TrimPrefix(f[1], "/src/")
		case "USER":
			d.user = rest
		case "ENTRYPOINT":
			must(t, json.Unmarshal([]byte(rest), &d.entrypoint))
		case "CMD":
			must(t, json.Unmarshal([]byte(rest), &d.cmd))
		default:
			t.Errorf("this image knows nothing of the Dockerfile's %s", line)
		}
	}
	return d
}

// TestTheImageIsTheDockerfiles, on each platform.
func TestTheImageIsTheDockerfiles(t *testing.T) {
	r, err := here()
	must(t, err)
	manifest, err := r.index.IndexManifest()
	must(t, err)
	for _, m := range manifest.Manifests {
		img, err := r.index.Image(m.Digest)
		must(t, err)
		t.Run(m.Platform.Architecture, func(t *testing.T) { compare(t, readDockerfile(t), img, *m.Platform) })
	}
}

func compare(t *testing.T, want dockerfile, img v1.Image, p v1.Platform) {
	t.Helper()
	config, err := img.ConfigFile()
	must(t, err)
	got := config.Config
	if config.OS != p.OS || config.Architecture != p.Architecture {
		t.Errorf("it says it is for %s/%s", config.OS, config.Architecture)
	}
	if !maps.Equal(got.Labels, want.labels) || len(want.labels) < 4 {
		t.Errorf("labels are %v, want %v", got.Labels, want.labels)
	}
	if got.User != want.user || !slices.Equal(got.Entrypoint, want.entrypoint) || !slices.Equal(got.Cmd, want.cmd) || want.user == "" {
		t.Errorf("it runs %v %v as %s, want %+v", got.Entrypoint, got.Cmd, got.User, want)
	}
	layers, err := img.Layers()
	must(t, err)
	files := map[string]entry{}
	for _, l := range layers {
		r, err := l.Uncompressed()
		must(t, err)
		maps.Copy(files, filesIn(t, r))
		must(t, r.Close())
	}
	if a, b := slices.Sorted(maps.Keys(files)), slices.Sorted(maps.Keys(want.files)); !slices.Equal(a, b) {
		t.Errorf("files are %v, want %v", a, b)
	}
	license, err := os.ReadFile(filepath.Join(source, want.files["LICENSE"]))
	must(t, err)
	if !bytes.Equal(files["LICENSE"].text, license) {
		t.Error("the license is another")
	}
	for name, mode := range map[string]int64{"LICENSE": 0o644, "agent": 0o755} {
		if f := files[name]; f.mode != mode || f.uid != 0 || f.gid != 0 {
			t.Errorf("%s has mode %04o and belongs to %d:%d", name, f.mode, f.uid, f.gid)
		}
	}
	agent := filepath.Join(t.TempDir(), "agent")
	must(t, os.WriteFile(agent, files["agent"].text, 0o700))
	out, err := exec.CommandContext(t.Context(), "go", "version", "-m", agent).Output()
	must(t, err)
	for _, want := range []string{"CGO_ENABLED=0", "-trimpath=true", "GOARCH=" + p.Architecture, "GOOS=" + p.OS} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the agent is not built with %s:\n%s", want, out)
		}
	}
	if !bytes.Contains(files["agent"].text, []byte(version)) {
		t.Error("the agent does not know its version")
	}
}

// TestTheBinaryIsSmall enough for what was promised; by how much is printed.
func TestTheBinaryIsSmall(t *testing.T) {
	r, err := here()
	must(t, err)
	const aim = 27.0
	for _, b := range r.binaries {
		line := fmt.Sprintf("%s: stripped %.1f MB, compressed %.1f MB; aim %.1f MB, the predecessor's %.1f MB", b.platform.String(), mega(b.size), mega(b.packed), aim, predecessor)
		t.Log(line)
		if mega(b.size) > aim {
			t.Error(line)
		}
	}
}
