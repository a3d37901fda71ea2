// Package app puts the engine together: the role table, the order in which
// things start and stop, and the commands of the autohedge binary.
//
// It must not judge, decode or store anything itself. Start with Main, then
// roles.go (the role table) and engine.go (start and drain).
package app
