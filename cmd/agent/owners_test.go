package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// starters begin a goroutine that nobody would own.
func starters() []string {
	return []string{
		"(*sync.WaitGroup).Go", "time.AfterFunc", "context.AfterFunc",
		"(*golang.org/x/sync/errgroup.Group).Go", "(*golang.org/x/sync/errgroup.Group).TryGo",
	}
}

// TestEveryGoroutineBeginsBelowAnOwner: no code of the program starts one but package
// supervise, whose panics are contained.
func TestEveryGoroutineBeginsBelowAnOwner(t *testing.T) {
	packages := 0
	unowned := programGoroutines(t, func(string) { packages++ })
	if packages < 20 {
		t.Errorf("only %d packages were looked at", packages)
	}
	for _, at := range unowned {
		t.Errorf("%s: start it through a supervise.Group, so that its panic ends the agent in order", at)
	}
}

// TestBrokenGoroutinesAreSeen: the check above sees each way to start one.
func TestBrokenGoroutinesAreSeen(t *testing.T) {
	const source = `package broken

import ("context"; "sync"; "time")

func f() {
	go f()
	var w sync.WaitGroup
	w.Go(f)
	start := w.Go
	start(f)
	time.AfterFunc(0, f)
	context.AfterFunc(context.Background(), f)
}
`
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "broken.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := goroutinesOf(t, fset, "broken", []*ast.File{file}, importer.ForCompiler(fset, "source", nil))
	if len(found) != 5 {
		t.Errorf("%d of 5 are seen: %v", len(found), found)
	}
}

// listed is a package as `go list` has it.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
}

// programGoroutines are the places where code of the program's own module starts a
// goroutine outside package supervise.
func programGoroutines(t *testing.T, seen func(pkg string)) (found []string) {
	t.Helper()
	list := exec.Command("go", "list", "-deps", "-export", "-json=ImportPath,Dir,Export,GoFiles", ".")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	exports, own := map[string]string{}, []listed{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if strings.HasPrefix(p.ImportPath, "eniagent/") && p.ImportPath != "eniagent/supervise" {
			own = append(own, p)
		}
	}
	fset := token.NewFileSet()
	imports := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	for _, p := range own {
		seen(p.ImportPath)
		var files []*ast.File
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
		found = append(found, goroutinesOf(t, fset, p.ImportPath, files, imports)...)
	}
	return found
}

func goroutinesOf(t *testing.T, fset *token.FileSet, pkg string, files []*ast.File, imports types.Importer) (found []string) {
	t.Helper()
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	if _, err := (&types.Config{Importer: imports}).Check(pkg, fset, files, info); err != nil {
		t.Fatal(err)
	}
	at := func(n ast.Node, what string) {
		found = append(found, fmt.Sprintf("%s: %s", fset.Position(n.Pos()), what))
	}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				at(n, "go")
			case *ast.Ident:
				if f, ok := info.Uses[n].(*types.Func); ok && slices.Contains(starters(), f.FullName()) {
					at(n, f.FullName())
				}
			}
			return true
		})
	}
	return found
}
