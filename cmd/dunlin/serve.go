package main

import "github.com/dunlindb/dunlin/internal/node"

// runNode runs one node until the context ends and everything of it has
// stopped. A variable, so that the tests of the commands need no node.
var runNode = node.Run
