package app

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/stream/bus"
)

// kafkaTrimCommand shortens the folder's log without loading it.
func (t *tool) kafkaTrimCommand() *cobra.Command {
	var keep int64
	var yes bool
	c := &cobra.Command{
		Use: "trim --keep BYTES", Short: "Shorten the embedded Kafka's log while it does not run", Args: args(cobra.NoArgs),
		Long: `trim deletes the oldest segments of md, signals, decisions and dead until the log
holds no more than --keep bytes. It looks at files alone and loads nothing, so it
also works on a log that memory does not hold. Other topics stay: roles rebuild
their state from them. Without --yes it only prints what it would do.

A role that had not read what is deleted says so at its next start, with the range
and the command that goes on; the sinks count it as expired.`,
		Example: `  autohedge kafka trim --keep 1073741824
  autohedge kafka trim --keep 1073741824 --yes`,
		RunE: func(*cobra.Command, []string) error {
			if keep < 0 {
				return withCode(exitUsage, errors.New("how much stays? say it with --keep BYTES"))
			}
			return t.trimKafka(keep, yes)
		},
	}
	c.Flags().Int64Var(&keep, "keep", -1, "bytes that the log may hold afterwards")
	c.Flags().BoolVar(&yes, "yes", false, "do it")
	return c
}

// trimReport is what kafka trim prints as JSON.
type trimReport struct {
	bus.TrimmedLog
	Applied bool `json:"applied"`
}

func (t *tool) trimKafka(keep int64, yes bool) error {
	cfg, err := t.loadConfig()
	if err != nil {
		return err
	}
	f, err := t.openFolder(cfg)
	if err != nil {
		return err
	}
	lock, err := f.Own("kafka")
	if err != nil {
		return err
	}
	defer lock.Unlock()
	done, err := bus.TrimLog(f.Kafka(), keep, !yes)
	if err != nil {
		return err
	}
	if t.output == "json" {
		if done.Partitions == nil {
			done.Partitions = []bus.TrimmedPartition{}
		}
		return t.json(trimReport{done, yes})
	}
	for _, p := range done.Partitions {
		fmt.Fprintf(t.out, "%s/%d: from %d to %d, %s\n", p.Topic, p.Partition, p.From, p.To, bus.Size(p.Bytes))
	}
	fmt.Fprintf(t.out, "the log has %s, then %s\n", bus.Size(done.Before), bus.Size(done.After))
	if !yes && len(done.Partitions) > 0 {
		fmt.Fprintf(t.out, "nothing was deleted: do it with %s\n", t.again(fmt.Sprintf("kafka trim --keep %d --yes", keep)))
	}
	if done.After > keep {
		return withCode(exitFailed, fmt.Errorf("more cannot go: the rest is the newest segment of each partition, and topics that roles rebuild their state from"))
	}
	return nil
}
