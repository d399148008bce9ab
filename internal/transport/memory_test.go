package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// joined returns both ends of a connection from host a to a listener of host b.
func joined(t *testing.T, p *Pipes) (a, b net.Conn) {
	t.Helper()
	l, err := p.Host("b").Listen(t.Context(), ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = p.Host("a").Dial(t.Context(), l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestPipeCarriesBytesAndItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := joined(t, NewPipes())
		sent := bytes.Repeat([]byte("0123456789"), pipeBuffer/4)
		go func() {
			_, _ = a.Write(sent)
			_ = a.Close()
		}()
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes of %d arrived, %v", len(got), len(sent), err)
		}
		if _, err := b.Write([]byte("x")); err == nil {
			t.Error("a write to a closed connection succeeded")
		}
		if a.LocalAddr().String() != b.RemoteAddr().String() || a.RemoteAddr().String() != b.LocalAddr().String() {
			t.Error("the ends do not agree on their addresses")
		}
		if err := a.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second close: %v", err)
		}
	})
}

func TestPipeDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := joined(t, NewPipes())
		begun := time.Now()
		_ = b.SetReadDeadline(begun.Add(time.Second))
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != time.Second {
			t.Errorf("read ended with %v after %v", err, time.Since(begun))
		}
		_ = a.SetDeadline(begun.Add(3 * time.Second))
		n, err := a.Write(make([]byte, pipeBuffer+1))
		if n != pipeBuffer || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != 3*time.Second {
			t.Errorf("wrote %d, ended with %v after %v", n, err, time.Since(begun))
		}
		_ = b.SetDeadline(time.Time{})
		if _, err := io.ReadFull(b, make([]byte, pipeBuffer)); err != nil {
			t.Errorf("without a deadline: %v", err)
		}
	})
}

func TestPipeCutHealBreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPipes()
		a, b := joined(t, p)
		p.Cut("a", "b")
		begun := time.Now()
		go func() {
			time.Sleep(time.Second)
			p.Heal("a", "b")
		}()
		_, _ = a.Write([]byte("x"))
		_, _ = b.Write([]byte("y"))
		if _, err := a.Read(make([]byte, 1)); err != nil || time.Since(begun) != 0 {
			t.Errorf("the other direction: %v after %v", err, time.Since(begun))
		}
		if _, err := b.Read(make([]byte, 1)); err != nil || time.Since(begun) != time.Second {
			t.Errorf("the cut direction: %v after %v", err, time.Since(begun))
		}
		_, _ = a.Write([]byte("lost"))
		p.Break("b", "a")
		if _, err := b.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("read from a broken connection: %v", err)
		}
	})
}

func TestPipeListeners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPipes()
		l, err := p.Host("b").Listen(t.Context(), "here")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Listen(t.Context(), "here"); err == nil {
			t.Error("an address was announced twice")
		}
		p.Cut("b", "")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.Dial(ctx, "here"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial across a cut: %v", err)
		}
		p.Heal("b", "")
		waiting, err := p.Dial(t.Context(), "here")
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		if _, err := waiting.Read(make([]byte, 1)); err == nil {
			t.Error("a connection that was never accepted outlived its listener")
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after close: %v", err)
		}
		if _, err := p.Dial(t.Context(), "here"); err == nil {
			t.Error("a closed listener was dialled")
		}
	})
}
