package sim

import (
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// root is the module's directory.
const root = "../.."

// planted is what the code asks whether a bug is on. A file with it is added to every package that gets bugs.
const planted = `package %s

import "os"

var mutantOn = os.Getenv("DUNLIN_MUTANT")

func planted(name string) bool { return name == mutantOn }
`

var packageClause = regexp.MustCompile(`(?m)^package (\w+)$`)

// plant returns the files that are changed or added, by path from the module's root, with every bug in its place.
func plant() (map[string]string, error) {
	files := map[string]string{}
	for _, m := range allPieces() {
		original, err := os.ReadFile(filepath.Join(root, m.file))
		if err != nil {
			return nil, err
		}
		if n := strings.Count(string(original), m.old); n != 1 {
			return nil, fmt.Errorf("%s: what it replaces is %d times in %s; adapt the mutant to the code", m.name, n, m.file)
		}
		if files[m.file] == "" {
			files[m.file] = string(original)
		}
		changed := strings.ReplaceAll(m.new, "PLANTED", fmt.Sprintf("planted(%q)", m.name))
		if !strings.Contains(files[m.file], m.old) || changed == m.new {
			return nil, fmt.Errorf("%s meets another mutant of %s, or has no switch", m.name, m.file)
		}
		files[m.file] = strings.Replace(files[m.file], m.old, changed, 1)
		files[path.Join(path.Dir(m.file), "planted.go")] = fmt.Sprintf(planted, packageClause.FindStringSubmatch(string(original))[1])
	}
	return files, nil
}

// none is no bug: nothing may be found with it, or what is found with one proves nothing.
var none = mutant{name: "none"}

// named is a piece of the mutant of a name.
type named struct {
	name string
	piece
}

func allPieces() (out []named) {
	for _, m := range mutants {
		for _, p := range m.pieces() {
			out = append(out, named{m.name, p})
		}
	}
	return out
}

// Every mutant must fit the code as it is.
func TestMutantsFit(t *testing.T) {
	if len(mutants) < 20 {
		t.Errorf("%d mutants", len(mutants))
	}
	files, err := plant()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if _, err := parser.ParseFile(token.NewFileSet(), name, text, 0); err != nil {
			t.Error(err)
		}
	}
}

// TestMutants plants one bug at a time and prints a table of which the simulator finds, as what, after how many schedules,
// by which seed, in how much simulated time. It takes long: DUNLIN_MUTANTS is all, or a pattern for their names; none is one.
func TestMutants(t *testing.T) {
	pattern := os.Getenv("DUNLIN_MUTANTS")
	if pattern == "" {
		return
	}
	if pattern == "all" {
		pattern = "."
	}
	want, err := regexp.Compile(pattern)
	if err != nil {
		t.Fatal(err)
	}
	limit := os.Getenv("DUNLIN_SCHEDULES")
	if limit == "" {
		limit = "200"
	}
	binary := buildMutants(t)
	var hunted []mutant
	for _, m := range append([]mutant{none}, mutants...) {
		if want.MatchString(m.name) {
			hunted = append(hunted, m)
		}
	}
	found, errs := make([]string, len(hunted)), make([]error, len(hunted))
	var all sync.WaitGroup
	free := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, m := range hunted {
		free <- struct{}{}
		all.Go(func() {
			begin := time.Now()
			found[i], errs[i] = m.hunt(binary, limit)
			fmt.Printf("%-24s %s %v, in %.0f s\n", m.name, found[i], errs[i], time.Since(begin).Seconds())
			<-free
		})
	}
	all.Wait()
	table, caught := "| mutant | what the referee says | schedules | seed | simulated |\n| --- | --- | --- | --- | --- |\n", 0
	for i, m := range hunted {
		switch {
		case m.name == none.name && errs[i] == nil:
			t.Errorf("found without a mutant: %s", found[i])
		case m.name == none.name:
		case errs[i] != nil:
			t.Errorf("%s (%s) is not caught: %v", m.name, m.what, errs[i])
			table += fmt.Sprintf("| %s | not caught | %s | | |\n", m.name, limit)
		default:
			caught++
			table += fmt.Sprintf("| %s | %s\n", m.name, found[i])
		}
	}
	t.Logf("%d are caught\n%s", caught, table)
}

// buildMutants builds this package's tests once, with every bug in its place and off.
func buildMutants(t *testing.T) (binary string) {
	t.Helper()
	files, err := plant()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	replace := map[string]string{}
	for name, text := range files {
		at, err := filepath.Abs(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		replace[at] = filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(replace[at], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	binary = filepath.Join(dir, "mutants.test")
	build := exec.Command("go", "test", "-c", "-o", binary, "-overlay", filepath.Join(dir, "overlay.json"), ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("the mutants do not build: %v\n%s", err, out)
	}
	return binary
}

// hunt lets schedules run with the bug on until one fails.
func (m mutant) hunt(binary, limit string) (found string, err error) {
	run := exec.Command(binary, "-test.run", "^TestHunt$", "-test.v", "-test.timeout", "60m")
	run.Env = append(os.Environ(), "DUNLIN_HUNT="+limit, "DUNLIN_MUTANT="+m.name, "GOMAXPROCS=1")
	out, err := run.CombinedOutput()
	if _, after, ok := strings.Cut(string(out), "HUNT "); ok {
		found, _, _ = strings.Cut(after, "\n")
		return found, nil
	}
	if err != nil { // a bug may also break the program itself: that is found, too
		path := filepath.Join(os.TempDir(), "dunlin-mutant-"+m.name+".txt")
		if err := os.WriteFile(path, out, 0o600); err != nil {
			return "", err
		}
		return fmt.Sprintf("the program fails: see %s | | | |", path), nil
	}
	return "", fmt.Errorf("%s schedules passed", limit)
}
