// Package config turns one YAML file plus the environment into the engine's
// configuration: strict, with every problem at once, each at file:line:column
// and with what is legal. It also prints the commented sample that `autohedge
// config init` writes.
//
// The structs, defaults and validation of a role or component stand beside it;
// this package only decodes, locates and prints. Start with Load, then decode.go.
package config
