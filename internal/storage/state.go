package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/cespare/xxhash/v2"
)

// MaxState is the largest content of a state file, in bytes.
const MaxState = 64 << 20

const (
	stateMagic  = "DLST"
	stateHeader = 4 + 1 + 8 // magic, version, checksum
	stateFormat = 1
)

var stateFile = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

func checkStateName(name string) error {
	if !stateFile.MatchString(name) || filepath.Ext(name) == ".tmp" {
		return fmt.Errorf("state file %q: want 1 to 64 of a-z 0-9 . _ -, not ending in .tmp", name)
	}
	return nil
}

// seal and unseal put a magic, a version and a checksum around small data.
func seal(magic, name string, data []byte) []byte {
	b := make([]byte, stateHeader, stateHeader+len(data))
	copy(b, magic)
	b[4] = stateFormat
	b = append(b, data...)
	binary.BigEndian.PutUint64(b[5:], sealSum(name, data))
	return b
}

func sealSum(name string, data []byte) uint64 {
	var h xxhash.Digest
	h.Reset()
	h.WriteString(name)
	h.Write([]byte{0})
	h.Write(data)
	return h.Sum64()
}

func unseal(magic, name string, b []byte) ([]byte, error) {
	switch {
	case len(b) < stateHeader || string(b[:4]) != magic:
		return nil, errors.New("not a file of ours, or cut short")
	case b[4] != stateFormat:
		return nil, fmt.Errorf("version %d, this release knows %d", b[4], stateFormat)
	case binary.BigEndian.Uint64(b[5:]) != sealSum(name, b[stateHeader:]):
		return nil, errors.New("checksum does not match")
	}
	return b[stateHeader:], nil
}

// Load returns what Save last stored under name, or nil and no error when there is nothing. A file that cannot be
// trusted is an error that wraps ErrDamaged.
func (d *Dir) Load(name string) ([]byte, error) {
	if err := checkStateName(name); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.disk != nil {
		d.disk.mu.RLock()
		defer d.disk.mu.RUnlock()
		return bytes.Clone(d.disk.state[name]), nil
	}
	if d.path == "" {
		return bytes.Clone(d.state[name]), nil
	}
	path := filepath.Join(d.path, stateName, name)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, unusable(d.path, err)
	}
	if info.Size() > MaxState+stateHeader {
		return nil, fmt.Errorf("%w: %s: %d bytes; restore it from a backup", ErrDamaged, path, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, unusable(d.path, err)
	}
	data, err := unseal(stateMagic, name, b)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w; restore it, or move the data directory aside and start empty", ErrDamaged, path, err)
	}
	return data, nil
}

// Save stores data durably under name, a name of 1 to 64 characters of a-z 0-9 . _ -. When it returns without an
// error, a power cut leaves the new content; when with one, the old or the new.
func (d *Dir) Save(name string, data []byte) error {
	if err := checkStateName(name); err != nil {
		return err
	}
	if len(data) > MaxState {
		return fmt.Errorf("state file %s: %w: %d bytes, at most %d", name, ErrTooLarge, len(data), MaxState)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("state file %s: %w", name, ErrClosed)
	}
	if d.disk != nil {
		return d.disk.change(d.turn, func() { d.disk.state[name] = append([]byte{}, data...) })
	}
	if d.path == "" {
		d.state[name] = append([]byte{}, data...)
		return nil
	}
	if err := writeFile(filepath.Join(d.path, stateName, name), seal(stateMagic, name, data)); err != nil {
		return unusable(d.path, fmt.Errorf("state file %s: %w", name, err))
	}
	return nil
}
