// Package agents is the role that has the desk judge every signal. It owns the
// path from topic signals to topic decisions: what is journalled before what,
// the order of decisions of one key, the answer to a redelivered signal, and the
// position that the desk is told of.
//
// It must not know how a signal came about, how an order is placed or what a
// venue is; how a signal is judged is the desk's business (agents/desk), how a
// model is asked agents/llm's. Start with Role.Run in agents.go, then worker.go.
package agents
