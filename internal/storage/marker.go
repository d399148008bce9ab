package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

const (
	markerFormat  = 1
	maxMarkerSize = 64 << 10
)

// marker is the content of dunlin.json, which is there for people to read too. A marker without badger's files,
// and the other way round, shows that the directory is damaged.
type marker struct {
	Format     int         `json:"format"`
	Node       ring.NodeID `json:"node"`
	Cluster    string      `json:"cluster"`
	Created    time.Time   `json:"created"`
	Store      bool        `json:"store"`      // a store was opened: badger's files must be there
	CleanStop  bool        `json:"clean_stop"` // and closed
	Durability string      `json:"durability"` // of the last run
	// MayHaveLost: a run found that the one before may have lost something, and has not yet marked the partitions.
	MayHaveLost bool `json:"may_have_lost,omitempty"`
}

func newMarker(cluster string) (marker, error) {
	node, err := newNodeID()
	if err != nil {
		return marker{}, err
	}
	return marker{
		Format: markerFormat, Node: node, Cluster: cluster,
		Created: time.Now().UTC().Truncate(time.Second),
	}, nil
}

func (m marker) identity() Identity {
	clean := m.CleanStop || !m.Store
	return Identity{
		Node: m.Node, Cluster: m.Cluster, Fresh: !m.Store,
		CleanStop:   clean,
		MayHaveLost: m.MayHaveLost || !clean && m.Durability != Fsync.String(),
	}
}

func (m marker) write(dir string) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", markerName, err)
	}
	return writeFile(filepath.Join(dir, markerName), append(b, '\n'))
}

func readMarker(dir string) (m marker, found bool, err error) {
	path := filepath.Join(dir, markerName)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return marker{}, false, nil
	}
	if err != nil {
		return marker{}, false, unusable(dir, err)
	}
	damaged := func(cause error) error {
		return fmt.Errorf("%w: %s cannot be read (%w); restore the file, or move the directory aside and start empty",
			ErrDamaged, path, cause)
	}
	if info.Size() > maxMarkerSize {
		return marker{}, false, damaged(fmt.Errorf("%d bytes, at most %d", info.Size(), maxMarkerSize))
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return marker{}, false, unusable(dir, err)
	}
	// The format first: a newer release may have changed the other fields.
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return marker{}, false, damaged(err)
	}
	if head.Format > markerFormat {
		return marker{}, false, fmt.Errorf("%w: %s has format %d, this release knows %d; use a newer release",
			ErrFormat, dir, head.Format, markerFormat)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return marker{}, false, damaged(err)
	}
	if m.Format < 1 || m.Node.IsZero() {
		return marker{}, false, damaged(errors.New("format or node is missing"))
	}
	return m, true, nil
}
