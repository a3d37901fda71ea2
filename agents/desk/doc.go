// Package desk judges one signal the way a trading desk does: the Director has a
// thesis, the Quant supports or challenges it, Risk sizes or rejects it (one new
// thesis after a rejection), Execution writes the order, the Director decides.
// It owns that cycle, the two desks that run it (rules in Go, and a model), the
// agents' prompts and schemas, and the arithmetic: every price and quantity
// comes from Go, exactly, never from a model.
//
// It must not know topics, partitions or who places orders; what it decides is
// still checked against hard limits elsewhere. Where judging is not possible it
// abstains and says why; that is never a trade and never a "hold".
//
// Start with Desk.Judge in desk.go, then cycle.go, then one file per agent.
package desk
