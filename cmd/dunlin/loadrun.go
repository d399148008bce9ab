package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vbauerster/mpb/v8"

	"github.com/dunlindb/dunlin/client"
)

const (
	savePause  = time.Second
	drainTime  = 5 * time.Second // for writes under way when interrupted
	leastAhead = 4096            // lines that may be done with behind one that is not
)

// loader is one run of load. Its goroutines are one reader, the writers, one
// that saves and one that shows progress; run waits for all.
type loader struct {
	cmd     *loadCmd
	s       *streams
	begun   time.Time
	from    int64 // bytes that earlier runs are done with
	input   io.ReadCloser
	reader  *lineReader
	bucket  *client.Bucket
	acks    *os.File // --acked, else nil
	ackText *bufio.Writer
	notes   io.Writer     // where refused records are reported
	bars    *mpb.Progress // on a terminal, else nil

	bytes, retried, acked, reported atomic.Int64

	mu    sync.Mutex // guards state, ackText and wakes room
	room  *sync.Cond // the reader waits here when it is too far ahead
	state *loadState
}

// open opens the input at the first line that is not done with, the state, and
// the connection.
func (l *loader) open(ctx context.Context) (err error) {
	l.room, l.notes = sync.NewCond(&l.mu), l.s.err
	var info os.FileInfo
	l.input = io.NopCloser(l.s.in)
	if l.cmd.File != "-" {
		f, err := os.Open(l.cmd.File)
		if err != nil {
			return err
		}
		l.input = f
		if info, err = f.Stat(); err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is no file; use - and a redirect", l.cmd.File)
		}
	}
	if l.state, err = readState(l.cmd, info); err != nil {
		return err
	}
	l.reader = newLineReader(l.input)
	if err := l.state.skip(l.reader); err != nil {
		return err
	}
	l.from = l.state.Offset
	if l.state.complete() {
		return nil
	}
	if l.state.Through > 0 {
		fmt.Fprintf(l.s.err, "going on behind line %d\n", l.state.Through)
	}
	if l.cmd.Acked != "" {
		if l.acks, err = os.OpenFile(l.cmd.Acked, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
			return fmt.Errorf("--acked: %w", err)
		}
		l.ackText = bufio.NewWriter(l.acks)
	}
	cluster, err := l.connect(ctx)
	if err != nil {
		return err
	}
	l.bucket = cluster.Bucket(l.cmd.Bucket)
	return l.save()
}

// run reads and writes until the input ends, the load fails, or ctx ends.
// Writes under way then get a moment to be acknowledged.
func (l *loader) run(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	group, work := errgroup.WithContext(work)
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	defer context.AfterFunc(work, stopReading)()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(drainTime, cancel) })()
	defer context.AfterFunc(reading, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.room.Broadcast()
	})()

	show := l.progress()
	records := make(chan record)
	group.Go(func() error {
		defer close(records)
		return l.read(reading, records)
	})
	for range l.cmd.Concurrency {
		group.Go(func() error { return l.writeAll(work, records) })
	}
	saved := l.background(l.saver)
	shown := l.background(show)
	err := group.Wait()
	saved()
	shown()
	l.notes = l.s.err
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// background runs f until the function that is returned is called, which waits
// for its end.
func (l *loader) background(f func(stop <-chan struct{})) (end func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		f(stop)
	}()
	return func() {
		close(stop)
		<-done
	}
}

// line is a line of the input.
type line struct {
	number  int64
	text    []byte
	settled settled
	err     error // errLongLine: this line cannot be written; other: the input failed
}

// pump reads lines until the input or ctx ends. It is not waited for: a read of
// a pipe cannot be interrupted, and it holds nothing but the input.
func (l *loader) pump(ctx context.Context, out chan<- line) {
	defer close(out)
	for {
		text, length, err := l.reader.next()
		if errors.Is(err, io.EOF) {
			return
		}
		next := line{l.reader.line, text, settled{length, digest(text)}, err}
		select {
		case out <- next:
		case <-ctx.Done():
			return
		}
		if err != nil && !errors.Is(err, errLongLine) {
			return
		}
	}
}

// read hands out the records that are not done with.
func (l *loader) read(ctx context.Context, out chan<- record) error {
	in := make(chan line)
	go l.pump(ctx, in)
	for {
		select {
		case <-ctx.Done():
			return nil
		case next, ok := <-in:
			if !ok {
				l.ended(ctx)
				return nil
			}
			if next.err != nil && !errors.Is(next.err, errLongLine) {
				return fmt.Errorf("reading %s: %w", l.cmd.File, next.err)
			}
			if !l.waitForRoom(ctx, next.number) {
				return nil
			}
			l.handOut(ctx, next, out)
		}
	}
}

// ended notes that the input was read to its end.
func (l *loader) ended(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.Ended = ctx.Err() == nil
}

// handOut gives one line to a writer, unless there is nothing to write.
func (l *loader) handOut(ctx context.Context, next line, out chan<- record) {
	if l.passedOver(next) {
		return
	}
	r, err := record{}, next.err
	if err == nil {
		r, err = l.cmd.parse(next.text)
	}
	r.line, r.settled = next.number, next.settled
	if err != nil {
		l.refused(r, err)
		return
	}
	select {
	case out <- r:
	case <-ctx.Done():
	}
}

// passedOver settles a line that an earlier run is done with, or that is empty.
func (l *loader) passedOver(next line) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	before, done := l.state.Done[next.number]
	switch {
	case done && before == next.settled.digest:
	case next.err == nil && len(next.text) == 0:
		l.state.Blank++
	default:
		return false
	}
	l.state.settle(next.number, next.settled)
	return true
}

// waitForRoom keeps the lines behind an unfinished one bounded.
func (l *loader) waitForRoom(ctx context.Context, line int64) bool {
	ahead := int64(max(leastAhead, 64*l.cmd.Concurrency))
	l.mu.Lock()
	defer l.mu.Unlock()
	for line > l.state.Through+ahead && ctx.Err() == nil {
		l.room.Wait()
	}
	return ctx.Err() == nil
}

// writeAll writes records until there are no more.
func (l *loader) writeAll(ctx context.Context, records <-chan record) error {
	for r := range records {
		if err := l.write(ctx, r); err != nil {
			return fmt.Errorf("line %d (key %s): %w", r.line, listed(r.key), err)
		}
	}
	return nil
}

func (l *loader) write(ctx context.Context, r record) error {
	ctx, cancel := context.WithTimeout(ctx, l.cmd.GiveUp)
	defer cancel()
	w, err := l.bucket.Put(ctx, r.key, r.value, client.Write{
		W: l.cmd.W, DW: l.cmd.DW, Timeout: l.cmd.Timeout, ContentType: r.contentType,
		IdempotencyKey: digest(fmt.Appendf(nil, "%s\x00%s\x00%d\x00%s", l.state.Source, l.state.Bucket, r.line, r.settled.digest)),
	})
	if err == nil {
		return l.acknowledged(r, w)
	}
	var p *client.Problem
	if errors.As(err, &p) && ctx.Err() == nil && refusesRecord(p.Status) {
		l.refused(r, err)
		return nil
	}
	if ctx.Err() == context.DeadlineExceeded {
		return fmt.Errorf("not acknowledged within %s (--give-up): %w", l.cmd.GiveUp, err)
	}
	return plain(err)
}

// refusesRecord tells the refusal of one record from a cluster or an address
// that cannot be written to at all.
func refusesRecord(status int) bool { return status == 400 || status == 413 || status == 422 }

func (l *loader) acknowledged(r record, w *client.Written) error {
	l.acked.Add(1)
	l.bytes.Add(int64(len(r.value)))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acks != nil {
		line := struct {
			Key  string `json:"key"`
			Node string `json:"node"`
			Acks string `json:"acks,omitempty"`
			Line int64  `json:"line"`
		}{r.key, w.Node, w.Acks, r.line}
		if err := json.NewEncoder(l.ackText).Encode(line); err != nil {
			return fmt.Errorf("--acked: %w", err)
		}
	}
	l.state.settle(r.line, r.settled)
	l.room.Broadcast()
	return nil
}

// refused reports a record that cannot be written and passes over it.
func (l *loader) refused(r record, err error) {
	switch n := l.reported.Add(1); {
	case n < maxReported:
		fmt.Fprintf(l.notes, "line %d: %s\n", r.line, oneLine(err.Error()))
	case n == maxReported:
		fmt.Fprintf(l.notes, "line %d: %s (further ones are only counted)\n", r.line, oneLine(err.Error()))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.Failed++
	l.state.settle(r.line, r.settled)
	l.room.Broadcast()
}

// saver saves until stopped. A failure to save is told by the last save.
func (l *loader) saver(stop <-chan struct{}) {
	tick := time.NewTicker(savePause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = l.save()
		case <-stop:
			return
		}
	}
}

// save stores the progress: the list of acknowledged keys first, so that none
// that the state counts is missing from it.
func (l *loader) save() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acks != nil {
		if err := l.ackText.Flush(); err != nil {
			return fmt.Errorf("--acked: %w", err)
		}
		if err := l.acks.Sync(); err != nil && !errors.Is(err, os.ErrInvalid) {
			return fmt.Errorf("--acked: %w", err)
		}
	}
	if l.cmd.State == "" {
		return nil
	}
	return l.state.write(l.cmd.State)
}

// close saves for the last time and closes the files.
func (l *loader) close() error {
	err := l.save()
	if l.acks != nil {
		err = errors.Join(err, l.acks.Close())
	}
	return errors.Join(err, l.input.Close())
}
