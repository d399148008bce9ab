package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// loadState is the progress of a load, as it is kept in a file: everything up
// to a line, and single lines behind it. It is used under the loader's lock.
type loadState struct {
	Format  int              `json:"format"`
	Bucket  string           `json:"bucket"`
	Fields  string           `json:"fields"`   // how lines are read
	Source  string           `json:"source"`   // what the Idempotency-Keys are derived from
	Size    int64            `json:"size"`     // of the file; -1: unknown
	Through int64            `json:"through"`  // every line up to this one is done with
	Offset  int64            `json:"offset"`   // bytes of those lines
	Chain   string           `json:"chain"`    // over those lines' digests
	Done    map[int64]string `json:"done"`     // lines behind Through, with their digests
	Blank   int64            `json:"blank"`    // empty lines among those done with
	Failed  int64            `json:"failed"`   // refused lines among those done with
	Ended   bool             `json:"complete"` // the file was read to its end

	ahead map[int64]settled // lines behind Through that this run is done with
}

// settled is what advancing over a line needs.
type settled struct {
	length int64 // bytes with the line end
	digest string
}

func (st *loadState) complete() bool { return st.Ended && len(st.Done) == 0 && st.Offset == st.Size }

// settle notes that a line is done with and advances over what is complete.
func (st *loadState) settle(line int64, s settled) {
	st.ahead[line] = s
	st.Done[line] = s.digest
	for {
		next, ok := st.ahead[st.Through+1]
		if !ok {
			return
		}
		st.Through++
		st.Offset += next.length
		st.Chain = chain(st.Chain, next.digest)
		delete(st.ahead, st.Through)
		delete(st.Done, st.Through)
	}
}

// digest tells one line from another.
func digest(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:16])
}

// chain is the digest of a run of lines.
func chain(before, digest string) string {
	sum := sha256.Sum256([]byte(before + digest))
	return hex.EncodeToString(sum[:16])
}

// newState is a load from the first line on. A file is named by where it is
// and how it is, so that the same load begun anew repeats the same writes;
// stdin can only be named by chance.
func newState(c *loadCmd, info os.FileInfo) *loadState {
	st := &loadState{Format: 1, Bucket: c.Bucket, Fields: c.fields(), Size: -1, Done: map[int64]string{}, ahead: map[int64]settled{}}
	if info == nil {
		st.Source = rand.Text()
		return st
	}
	st.Size = info.Size()
	st.Source = digest(fmt.Appendf(nil, "%s\x00%d\x00%d", c.File, info.Size(), info.ModTime().UnixNano()))
	return st
}

func (c *loadCmd) fields() string { return fmt.Sprintf("%q %q %t", c.KeyField, c.ValueField, c.Raw) }

// readState reads the state of an earlier run and refuses what does not belong
// to this one. Without one it is a new state.
func readState(c *loadCmd, info os.FileInfo) (*loadState, error) {
	fresh := newState(c, info)
	if c.State == "" || c.Restart {
		return fresh, nil
	}
	text, err := os.ReadFile(c.State)
	if errors.Is(err, os.ErrNotExist) {
		return fresh, nil
	}
	if err != nil {
		return nil, fmt.Errorf("--state: %w", err)
	}
	st := &loadState{}
	if err := json.Unmarshal(text, st); err != nil || st.Format != 1 {
		return nil, fmt.Errorf("--state: %s is no progress of a load; remove it or use --restart", c.State)
	}
	switch {
	case st.Bucket != c.Bucket:
		return nil, fmt.Errorf("--bucket: %s is the progress of a load into %q; use that bucket, another --state, or --restart", c.State, st.Bucket)
	case st.Fields != fresh.Fields:
		return nil, fmt.Errorf("--state: %s is the progress of a load with other --key-field, --value-field or --raw; use the same or --restart", c.State)
	case st.Size != fresh.Size:
		return nil, fmt.Errorf("%s has changed since %s was written (%d bytes then, %d now); use --restart to load it from the start", c.File, c.State, st.Size, fresh.Size)
	}
	if st.Done == nil {
		st.Done = map[int64]string{}
	}
	st.ahead = map[int64]settled{}
	return st, nil
}

// skip reads the lines that are done with and compares them with what they
// were. It returns the state's position to the reader.
func (st *loadState) skip(r *lineReader) error {
	have := ""
	var offset int64
	for r.line < st.Through {
		text, length, err := r.next()
		if errors.Is(err, io.EOF) {
			return errChanged
		}
		if err != nil && !errors.Is(err, errLongLine) {
			return err
		}
		have = chain(have, digest(text))
		offset += length
	}
	if have != st.Chain || offset != st.Offset {
		return errChanged
	}
	return nil
}

var errChanged = errors.New("the file has changed since the load began; use --restart to load it from the start")

// write stores the state so that it survives a crash at any moment.
func (st *loadState) write(path string) error {
	text, err := json.Marshal(st)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := writeSynced(tmp, append(text, '\n')); err != nil {
		return fmt.Errorf("--state: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("--state: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("--state: %w", err)
	}
	return nil
}

func writeSynced(path string, text []byte) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(text); err != nil {
		return err
	}
	return f.Sync()
}
