package main

import "testing"

func TestPartsOfAProfile(t *testing.T) {
	for want, stack := range map[string][]string{
		"system calls: disk":    {"internal/runtime/syscall/linux.Syscall6", "golang.org/x/sys/unix.Msync", "github.com/dgraph-io/badger/v4.(*memTable).SyncWAL"},
		"system calls: network": {"internal/runtime/syscall/linux.Syscall6", "syscall.write", "internal/poll.(*FD).Write", "net/http.(*conn).serve"},
		"allocation":            {"runtime.mallocgcSmallScanNoHeader", "runtime.mallocgc", "github.com/dunlindb/dunlin/coordinator.(*Coordinator).Put"},
		"badger: search":        {"memeqbody", "github.com/dgraph-io/badger/v4.(*DB).get", "github.com/dgraph-io/badger/v4.(*Txn).Get", "github.com/dunlindb/dunlin/internal/storage.(*Store).load"},
		"badger: commit":        {"runtime.memmove", "github.com/dgraph-io/badger/v4.(*logFile).writeEntry", "github.com/dgraph-io/badger/v4.(*DB).writeToLSM"},
		"codec":                 {"github.com/dunlindb/dunlin/internal/wire.(*Encoder).Raw", "github.com/dunlindb/dunlin/coordinator.(*mergeMessage).encode"},
		"coordinator":           {"runtime.memmove", "github.com/dunlindb/dunlin/coordinator.(*Coordinator).Put", "github.com/dunlindb/dunlin/api.(*api).put"},
		otherPart:               {"main.main"},
	} {
		if got := partOf(stack); got != want {
			t.Errorf("%v counts as %q, want %q", stack, got, want)
		}
	}
}
