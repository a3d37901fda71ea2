package kafkatest

import (
	"os"
	"os/exec"
	"runtime"
)

// process is one life of a broker.
type process struct {
	cmd  *exec.Cmd
	over chan struct{} // closed when it has ended
}

// startProcess starts the command, which ends with this process.
func startProcess(cmd *exec.Cmd) (*process, error) {
	endWithParent(cmd)
	p := &process{cmd: cmd, over: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.over)
		runtime.LockOSThread() // whose end is the broker's, see endWithParent
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.over:
		return false
	default:
		return true
	}
}

// kill ends it and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.over
}

// signal sends sig, as long as the process lives.
func (p *process) signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }
