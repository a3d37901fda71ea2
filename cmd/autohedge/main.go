// Command autohedge is the market-reactive trading engine: one binary that is
// every role, the embedded servers, the simulator and the tools around them.
package main

import (
	"os"

	"github.com/autohedge/autohedge/cmd/internal/app"
)

func main() { os.Exit(app.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
