package paxos

import (
	"slices"
	"strings"
	"testing"

	"github.com/anishathalye/porcupine"
)

// chainModel is what the register promises: a list of layouts that only grows. A proposal for the next epoch appends
// and wins; one for an epoch that is there gets what is there; a read gets it too, or nothing. An operation of unknown
// outcome may come at any time after its call, and at the very end it shows nobody anything.
var chainModel = porcupine.Model{
	Init: func() any { return "first" },
	Step: func(state, input, output any) (bool, any) {
		epochs := strings.Split(state.(string), "|")
		in, out := input.(operation), output.(operation)
		switch {
		case in.epoch <= len(epochs):
			there := epochs[in.epoch-1]
			return out.unknown || !out.empty && out.got == there && out.mine == (in.value == there), state
		case in.epoch > len(epochs)+1:
			return false, state
		case in.value == "":
			return out.unknown || out.empty, state
		}
		return out.unknown || out.mine && out.got == in.value, state.(string) + "|" + in.value
	},
}

func linearizable(history []operation) bool {
	var all []porcupine.Operation
	for _, op := range history {
		all = append(all, porcupine.Operation{ClientId: op.client, Input: op, Call: op.call, Output: op, Return: op.finish})
	}
	return porcupine.CheckOperations(chainModel, all)
}

func TestChainOfEpochsIsLinearizable(t *testing.T) {
	seeds := uint64(300)
	if testing.Short() {
		seeds = 40
	}
	var won, lost, found, nothing, unknown, epochs int
	for seed := range seeds {
		history := newChain(seed, false).run(3, 2)
		if !linearizable(history) {
			t.Fatalf("seed %d: not linearizable:\n%s", seed, render(history))
		}
		last := 0
		for _, op := range history {
			switch {
			case op.unknown:
				unknown++
			case op.empty:
				nothing++
			case op.value == "":
				found++
			case op.mine:
				won++
			default:
				lost++
			}
			if op.got != "" {
				last = max(last, op.epoch-1)
			}
		}
		epochs += last
	}
	t.Logf("%d schedules, %d epochs decided: %d proposals won, %d lost and learnt who won; reads: %d found, %d nothing; %d of unknown outcome",
		seeds, epochs, won, lost, found, nothing, unknown)
	if min(won, lost, found, nothing, unknown) == 0 || epochs < int(seeds) {
		t.Error("the schedules do not reach what they are for")
	}
}

// The check must fail on a history that a bug made, or it says nothing.
func TestLinearizabilityCheckFindsEarlyAnswers(t *testing.T) {
	for seed := range uint64(2000) {
		if !linearizable(newChain(seed, true).run(3, 2)) {
			t.Logf("seed %d", seed)
			return
		}
	}
	t.Error("acceptors answered before they stored, and all histories look right")
}

func render(history []operation) string {
	slices.SortFunc(history, func(a, b operation) int { return int(a.call - b.call) })
	var b strings.Builder
	for _, op := range history {
		b.WriteString(op.String() + "\n")
	}
	return b.String()
}
