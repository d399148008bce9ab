package house

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/dunlindb/dunlin"

// floors says on which floor a package stands. A package imports only from lower floors, never a sibling.
var floors = map[string]int{
	"internal/wire":      -1,
	"internal/referee":   -1, // pure: judges histories
	"internal/config":    -1, // plain data
	"client":             -1, // the public client: knows HTTP only
	"internal/loadgen":   -1, // measures any server, ours over HTTP
	"internal/fleet":     -1, // runs processes
	"ring":               0,
	"vclock":             0,
	"internal/admission": 0,
	"internal/direct":    0,
	"internal/paxos":     0,
	"internal/storage":   1,
	"internal/transport": 1,
	"internal/cluster":   1,
	"coordinator":        2,
	"internal/buckets":   2,
	"hinted":             2,
	"antientropy":        2,
	"internal/reaper":    2,
	"api":                3,
	"internal/node":      4,
	"internal/crowd":     4, // knows HTTP only
	"internal/sim":       5,
	"internal/torture":   5,
	"cmd/dunlin":         6,
	"internal/e2e":       7,
	"internal/house":     7,
	"bench":              7, // measures programs, is none of the product
	"bench/grpc":         7, // the same, in a module of its own
}

// protocols know the floors below them only through interfaces of their own.
var protocols = []string{"coordinator", "internal/buckets", "hinted", "antientropy", "internal/reaper"}

// owners are the only packages that may import a library, so that it can be replaced, and distrusted, in one place.
var owners = map[string][]string{
	"github.com/dgraph-io/badger":         {"internal/storage"},
	"github.com/hashicorp/memberlist":     {"internal/cluster"},
	"github.com/gorilla/mux":              {"api"},
	"github.com/vmihailenco/msgpack":      {"internal/wire"},
	"github.com/alecthomas/kong":          {"cmd/dunlin"},
	"github.com/vbauerster/mpb":           {"cmd/dunlin"},
	"github.com/KimMachineGun":            {"cmd/dunlin"},
	"github.com/vbauerster/cupwriter":     {"cmd/dunlin"},
	"github.com/HdrHistogram":             {"internal/loadgen"},
	"github.com/wcharczuk/go-chart":       {"internal/loadgen", "bench"},
	"go.yaml.in/yaml":                     {"internal/config"},
	"github.com/prometheus/client_golang": {"api", "coordinator", "hinted", "antientropy", "internal/reaper", "internal/storage", "internal/node"},
}

// pure packages know no network, no disk and no randomness of their own.
var pure = []string{"ring", "vclock", "internal/paxos", "internal/wire", "internal/referee"}

const (
	maxLines     = 600
	maxTestLines = 800
)

type source struct {
	pkg, file string
	imports   []string
	lines     int
	text      []byte
}

func (s source) test() bool { return strings.HasSuffix(s.file, "_test.go") }

// sources parses every Go file of the module.
func sources(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	var out []source
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if d.IsDir() || filepath.Ext(p) != ".go" {
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, b, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		s := source{pkg: path.Dir(filepath.ToSlash(rel)), file: filepath.ToSlash(rel), lines: bytes.Count(b, []byte("\n")), text: b}
		for _, i := range f.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			s.imports = append(s.imports, name)
		}
		out = append(out, s)
		return nil
	})
	if err != nil || len(out) < 50 {
		t.Fatalf("%d files: %v", len(out), err)
	}
	return out
}

func TestPackagesImportOnlyLowerFloors(t *testing.T) {
	for _, s := range sources(t) {
		floor, ok := floors[s.pkg]
		if !ok {
			t.Errorf("%s: the package has no floor; give it one here", s.file)
			continue
		}
		for _, i := range s.imports {
			own, ours := strings.CutPrefix(i, module+"/")
			if !ours || own == s.pkg {
				continue
			}
			to := floors[own]
			if to >= floor && !s.test() {
				t.Errorf("%s (floor %d) imports %s (floor %d)", s.file, floor, own, to)
			}
			if slices.Contains(protocols, s.pkg) && to == 1 {
				t.Errorf("%s: a protocol imports %s; declare an interface instead", s.file, own)
			}
		}
	}
}

func TestLibrariesHaveOneOwner(t *testing.T) {
	for _, s := range sources(t) {
		for _, i := range s.imports {
			for library, owner := range owners {
				if strings.HasPrefix(i, library) && !slices.Contains(owner, s.pkg) {
					t.Errorf("%s imports %s, which only %v may", s.file, i, owner)
				}
			}
		}
	}
}

func TestPurePackagesKnowNoWorld(t *testing.T) {
	for _, s := range sources(t) {
		if !slices.Contains(pure, s.pkg) || s.test() {
			continue
		}
		for _, i := range s.imports {
			if slices.Contains([]string{"os", "net", "math/rand", "math/rand/v2", "crypto/rand", "log", "log/slog", "context"}, i) {
				t.Errorf("%s imports %s", s.file, i)
			}
		}
		for _, call := range []string{"time.Now(", "time.Sleep(", "time.After(", "\tgo "} {
			if bytes.Contains(s.text, []byte(call)) {
				t.Errorf("%s: %q in a pure package", s.file, strings.TrimSpace(call))
			}
		}
	}
}

func TestFilesStayReadable(t *testing.T) {
	for _, s := range sources(t) {
		limit := maxLines
		if s.test() {
			limit = maxTestLines
		}
		if s.lines > limit {
			t.Errorf("%s has %d lines, at most %d: split it by what it does", s.file, s.lines, limit)
		}
	}
}
