package storage

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// unpack writes the fixture of a data directory to a new one.
func unpack(tb testing.TB, fixture string) string {
	tb.Helper()
	dir := tb.TempDir()
	f, err := os.Open(filepath.Join("testdata", fixture))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			tb.Fatal(err)
		}
		path := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o700)
		} else {
			var b []byte
			if b, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, b, 0o600)
			}
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// A directory from before there were hints, rounds and marks opens, with everything in it: 40 keys, a large object
// and a meta value.
func TestOldDirectoryOpens(t *testing.T) {
	s, _ := openTest(t, unpack(t, "datadir-v1.tar.gz"), Options{Partitions: 4})
	for i := range 40 {
		k := Key{i % 4, "b", fmt.Sprint(i)}
		if st := get(t, s, k); !st.Found || string(st.Record.Siblings[0].Value) != "v" || st.Round != 0 {
			t.Errorf("%v: %+v", k, st)
		}
	}
	if st := get(t, s, Key{1, "b", "big"}); len(st.Record.Siblings[0].Value) != 1<<20 {
		t.Error("the large object is another one")
	}
	if v, found, err := s.GetMeta("m"); string(v) != "x" || !found || err != nil {
		t.Error(v, found, err)
	}
	checkSums(t, s)
	checkMarks(t, s, map[int]Mark{0: 0, 3: 0})
	if s.MayHaveLost() || len(s.HintTargets()) != 0 || s.Round(1) != 0 {
		t.Error("something is there that was not")
	}
	put(t, s, Key{1, "b", "1"}, "new")
	checkSums(t, s)
}
