//go:build linux

package main

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mutant is one place that can be wrong.
type mutant struct {
	id   int
	file string // from the root of the module
	line int
	in   string // the function
	what string
}

// String is "journal/open.go:12 openLocked: turned around: err != nil".
func (m mutant) String() string { return fmt.Sprintf("%s:%d %s: %s", m.file, m.line, m.in, m.what) }

// key is what equivalent.txt calls it: without the line, which moves.
func (m mutant) key() string { return fmt.Sprintf("%s %s: %s", m.file, m.in, m.what) }

// edit puts text into the source at an offset. Edits never replace anything, so
// that those within others need no care.
type edit struct {
	at   int
	text string
}

// source is a file on its way to its mutants.
type source struct {
	fset  *token.FileSet
	file  *ast.File
	text  []byte
	path  string
	in    string
	next  *int
	edits []edit
	found []mutant
}

// mutate is a package's files with all their mutants, by path.
func mutate(dir string, next *int) (files map[string][]byte, all []mutant, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, nil, err
	}
	files = map[string][]byte{}
	for _, path := range names {
		built, err := build.Default.MatchFile(filepath.Dir(path), filepath.Base(path))
		if err != nil {
			return nil, nil, err
		}
		if !built || strings.HasSuffix(path, "_test.go") {
			continue
		}
		text, found, err := mutateFile(path, next)
		if err != nil {
			return nil, nil, err
		}
		files[path] = text
		all = append(all, found...)
	}
	return files, all, nil
}

func mutateFile(path string, next *int) ([]byte, []mutant, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	s := &source{fset: token.NewFileSet(), text: text, path: path, next: next}
	if s.file, err = parser.ParseFile(s.fset, path, text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
		return nil, nil, err
	}
	for _, d := range s.file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		s.in = f.Name.Name
		ast.Inspect(f.Body, s.visit)
	}
	if len(s.found) == 0 {
		return text, nil, nil
	}
	// On the line of the package clause, so that no other line moves.
	s.put(s.file.Name.End(), `; import on "eniagent/recovery/chaos/mutants/on"`)
	return s.edited(), s.found, nil
}

func (s *source) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.IfStmt:
		s.condition(n.Cond)
	case *ast.ForStmt:
		if n.Cond != nil {
			s.condition(n.Cond)
		}
	case *ast.SwitchStmt:
		if n.Tag == nil {
			for _, c := range n.Body.List {
				for _, e := range c.(*ast.CaseClause).List {
					s.condition(e)
				}
			}
		}
	case *ast.ReturnStmt:
		s.returned(n)
	case *ast.BlockStmt:
		s.statements(n.List)
	case *ast.CaseClause:
		s.statements(n.Body)
	}
	return true
}

// condition turns each part of a condition around, and moves its boundaries.
func (s *source) condition(e ast.Expr) {
	switch e := e.(type) {
	case *ast.ParenExpr:
		s.condition(e.X)
		return
	case *ast.UnaryExpr:
		if e.Op == token.NOT {
			s.condition(e.X)
			return
		}
	case *ast.BinaryExpr:
		if e.Op == token.LAND || e.Op == token.LOR {
			s.condition(e.X)
			s.condition(e.Y)
			return
		}
		if s.moves(e) {
			x, y := s.source(e.X), s.source(e.Y)
			id := s.mutant(e, "boundary moved: "+s.source(e))
			s.around(e, "((", fmt.Sprintf(") != (on.This(%d) && (%s) == (%s)))", id, x, y))
		}
	}
	if hasFunction(e) {
		return
	}
	id := s.mutant(e, "turned around: "+s.source(e))
	s.around(e, fmt.Sprintf("(on.This(%d) != (", id), "))")
}

// moves says whether a comparison has a boundary, and can be asked twice.
func (s *source) moves(e *ast.BinaryExpr) bool {
	ordered := slices.Contains([]token.Token{token.LSS, token.LEQ, token.GTR, token.GEQ}, e.Op)
	return ordered && !hasFunction(e)
}

func (s *source) returned(r *ast.ReturnStmt) {
	for i, e := range r.Results {
		switch e := e.(type) {
		case *ast.BinaryExpr:
			if slices.Contains([]token.Token{token.LAND, token.LOR, token.EQL, token.NEQ, token.LSS, token.LEQ, token.GTR, token.GEQ}, e.Op) {
				s.condition(e)
			}
		case *ast.UnaryExpr:
			if e.Op == token.NOT {
				s.condition(e)
			}
		case *ast.Ident:
			if e.Name == "err" && i == len(r.Results)-1 {
				id := s.mutant(e, "error lost")
				s.around(e, fmt.Sprintf("on.Lost(%d, ", id), ")")
			}
		}
	}
}

// statements leaves each out that has an effect and declares nothing.
func (s *source) statements(list []ast.Stmt) {
	for _, st := range list {
		switch st := st.(type) {
		case *ast.ExprStmt:
			call, ok := st.X.(*ast.CallExpr)
			// A function that ends with a panic would not compile without it, and a
			// line in the log is for people.
			if ok && (s.source(call.Fun) == "panic" || strings.HasSuffix(s.source(call.Fun), ").Log")) {
				continue
			}
		case *ast.IncDecStmt:
		case *ast.AssignStmt:
			if st.Tok == token.DEFINE {
				continue
			}
		default:
			continue
		}
		id := s.mutant(st, "left out: "+s.source(st))
		s.around(st, fmt.Sprintf("if !on.This(%d) { ", id), " }")
	}
}

func hasFunction(e ast.Expr) (found bool) {
	ast.Inspect(e, func(n ast.Node) bool {
		_, f := n.(*ast.FuncLit)
		found = found || f
		return !found
	})
	return found
}

func (s *source) mutant(n ast.Node, what string) int {
	*s.next++
	what = strings.Join(strings.Fields(what), " ")
	s.found = append(s.found, mutant{*s.next, s.path, s.fset.Position(n.Pos()).Line, s.in, what[:min(len(what), 110)]})
	return *s.next
}

func (s *source) source(n ast.Node) string {
	return string(s.text[s.fset.Position(n.Pos()).Offset:s.fset.Position(n.End()).Offset])
}

func (s *source) put(at token.Pos, text string) {
	s.edits = append(s.edits, edit{s.fset.Position(at).Offset, text})
}

func (s *source) around(n ast.Node, before, after string) {
	s.put(n.Pos(), before)
	// What ends here and began later is within: its end comes first.
	s.edits = append([]edit{{s.fset.Position(n.End()).Offset, after}}, s.edits...)
}

// edited is the text with the edits in it.
func (s *source) edited() []byte {
	slices.SortStableFunc(s.edits, func(a, b edit) int { return a.at - b.at })
	var out []byte
	last := 0
	for _, e := range s.edits {
		out = append(append(out, s.text[last:e.at]...), e.text...)
		last = e.at
	}
	return append(out, s.text[last:]...)
}
