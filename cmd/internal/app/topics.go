package app

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// topicsCommand shows the topics; what changes them are its subcommands.
func (t *tool) topicsCommand() *cobra.Command {
	var session string
	c := &cobra.Command{
		Use: "topics", Short: "Show the topics and what is wrong with them", GroupID: "look", Args: onlyCommands,
		Long: `topics asks Kafka what each topic is like and compares it with what autohedge
needs: partitions, replicas, cleanup policy, retention, min.insync.replicas,
unclean leader election, message size and compression, broker defaults included.
Nothing is changed.

REPLICAS are in sync/all of the partition with the fewest; RECORDS count from the
first offset to the end, so a compacted topic holds fewer; BYTES are those of the
largest replica, "-" where the cluster does not tell them.

It also says what a start refuses: a topic that was deleted or is another one, a
log that ends before what a group or this data folder knows of it, and records
that retention took unread.

Exit code 1 when a topic is missing or not as it must be, or when its settings
may not be read. "autohedge topics repair" mends what can be mended; the engine
does not start before.`,
		Example: `  autohedge topics
  autohedge topics --config autohedge.yaml --output json
  autohedge topics repair --config autohedge.yaml
  autohedge topics --session r1`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := t.connectKafka(cmd.Context(), session)
			if err != nil {
				return err
			}
			return errors.Join(t.showTopics(cmd.Context(), client), client.Close())
		},
	}
	c.PersistentFlags().StringVar(&session, "session", "", "a replay's session instead of the live topics")
	// What changes topics, one constructor each; session is read when they run.
	for _, sub := range []func(*string) *cobra.Command{t.topicsRepairCommand, t.skipCommand, t.adoptCommand, t.discardCommand} {
		c.AddCommand(sub(&session))
	}
	return c
}

func (t *tool) showTopics(ctx context.Context, client *bus.Client) error {
	states, err := client.DescribeTopics(ctx)
	if err != nil {
		return withCode(exitDown, err)
	}
	judged := client.JudgeTopics(ctx, states)
	if judged == nil {
		judged = t.judgeFolder(ctx, client, states)
	}
	if judged != nil {
		fmt.Fprintf(t.err, "autohedge: whether a start accepts the topics is not known: %v\n", judged)
	}
	var bad []string
	for _, s := range states {
		if topicStatus(s) != "good" {
			bad = append(bad, s.Name)
		}
	}
	if t.output == "json" {
		err = t.json(states)
	} else {
		err = t.printTopics(client, states)
	}
	if err == nil && len(bad) > 0 {
		err = withCode(exitFailed, errSaid)
		fmt.Fprintf(t.err, "autohedge: %d of %d topics are not as they must be: %s\n", len(bad), len(states), strings.Join(bad, ", "))
	}
	if err == nil && judged != nil {
		err = withCode(exitFailed, errSaid)
	}
	return err
}

// judgeFolder adds what makes a start on this data folder refuse the topics, by the
// function that refuses it.
func (t *tool) judgeFolder(ctx context.Context, client *bus.Client, states []bus.TopicState) error {
	cfg, err := t.loadConfig()
	if err != nil {
		return err
	}
	f, err := t.openFolder(cfg)
	if err != nil {
		return err
	}
	known, err := readLogs(f)
	if err != nil {
		return err
	}
	for i := range states {
		if s := &states[i]; s.Known() && s.Topic != event.TopicMeta && client.Session() == "" {
			now, bounds, err := currentLog(ctx, client, s.Topic)
			if err != nil {
				return err
			}
			s.Refuse(judgeLog(f, client, s.Topic, known[s.Topic], now, bounds))
		}
	}
	return nil
}

func (t *tool) printTopics(client *bus.Client, states []bus.TopicState) error {
	var rows [][]string
	var wrong []bus.WrongSetting
	mends, unread := false, false
	for _, s := range states {
		replicas := fmt.Sprintf("%d/%d", s.InSync, s.Replicas)
		if !s.Known() {
			replicas = "-"
		}
		rows = append(rows, []string{
			s.Name, strconv.Itoa(s.Partitions), replicas, dash(s.Settings["cleanup.policy"]), kept(s), counted(s.Bytes), counted(s.Records), topicStatus(s),
		})
		wrong = append(wrong, s.Wrong...)
		unread = unread || s.Unread != ""
		for _, w := range s.Wrong {
			mends = mends || w.Mend != ""
		}
	}
	if err := writeTable(t.out, []string{"TOPIC", "PARTITIONS", "REPLICAS", "CLEANUP", "RETENTION", "BYTES", "RECORDS", "STATUS"}, rows); err != nil {
		return err
	}
	if len(wrong) > 0 {
		fmt.Fprintln(t.out)
	}
	for _, s := range states {
		if s.FaultText != "" {
			fmt.Fprintln(t.out, s.FaultText)
		}
		if s.Refused != "" {
			fmt.Fprintf(t.out, "\n%s: the brokers refuse to tell of it, also whether it exists: %s\n", s.Name, s.Refused)
		}
	}
	for _, w := range wrong {
		fmt.Fprintln(t.out, w)
		if w.Fix != "" {
			fmt.Fprintln(t.out, "    "+w.Fix)
		}
	}
	if mends {
		fmt.Fprintln(t.out, "\nmend with: "+t.again("topics repair --yes"+ofSession(client)))
	}
	if unread {
		fmt.Fprintln(t.out, "\nthe settings may not be read by this user: allow it DescribeConfigs on the topics (kafka-acls.sh)")
	}
	return nil
}

// ofSession is the flag that names the client's session.
func ofSession(client *bus.Client) string {
	if s := client.Session(); s != "" {
		return " --session " + s
	}
	return ""
}

// again is a command with the flags that this one was called with.
func (t *tool) again(command string) string {
	c := "autohedge " + command
	if t.config != "" {
		c += " --config " + t.config
	}
	if t.data != "" {
		c += " --data " + t.data
	}
	return c
}

// topicStatus is the state of a topic in a word or two.
func topicStatus(s bus.TopicState) string {
	errs, warnings := 0, 0
	for _, w := range s.Wrong {
		if w.Warning {
			warnings++
		} else {
			errs++
		}
	}
	switch {
	case s.Deleted:
		return "deleted"
	case s.Fault != nil:
		return string(s.Fault.Fault)
	case s.Missing:
		return "missing: the engine creates it"
	case s.Refused != "":
		return "refused"
	case errs > 0:
		return fmt.Sprintf("%d wrong", errs)
	case warnings > 0 && s.InSync < s.Replicas:
		return "replicas behind"
	case s.Unread != "":
		return "not checked"
	case warnings > 0:
		return "unusual"
	}
	return "good"
}

// kept is how long and how much a topic keeps.
func kept(s bus.TopicState) string {
	if s.Settings["cleanup.policy"] == "compact" {
		return "newest of each key"
	}
	ms, bytes := s.Settings["retention.ms"], s.Settings["retention.bytes"]
	switch {
	case ms == "":
		return "-"
	case ms == "-1" && bytes == "-1":
		return "for ever"
	}
	var parts []string
	if n, err := strconv.ParseInt(ms, 10, 64); err == nil && n >= 0 {
		parts = append(parts, fmt.Sprintf("%.4gh", float64(n)/3_600_000))
	}
	if n, err := strconv.ParseInt(bytes, 10, 64); err == nil && n >= 0 {
		parts = append(parts, fmt.Sprintf("%.3g GiB a partition", float64(n)/(1<<30)))
	}
	return strings.Join(parts, ", ")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// counted writes a number that may be unknown.
func counted(n int64) string {
	if n < 0 {
		return "-"
	}
	return thousands(uint64(n))
}

func (t *tool) topicsRepairCommand(session *string) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "repair", Short: "Set what is wrong with the topics to what it must be", Args: args(cobra.NoArgs),
		Long: `repair sets the settings that "autohedge topics" calls wrong to what the
configuration asks for, and adds replicas where there are too few. Without --yes it
only prints what it would do. Records are never touched: a longer retention keeps
what is still there, and what cannot be mended (another number of partitions) is
told with what to do. It waits until the changes are in force; a second run changes
nothing.`,
		Example: `  autohedge topics repair --config autohedge.yaml          what would change
  autohedge topics repair --config autohedge.yaml --yes`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := t.connectKafka(cmd.Context(), *session)
			if err != nil {
				return err
			}
			return errors.Join(t.repairTopics(cmd.Context(), client, yes), client.Close())
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do it")
	return c
}

// repaired is what repair prints as JSON.
type repaired struct {
	Applied bool               `json:"applied"`
	Changes []bus.TopicChange  `json:"changes"`
	Left    []bus.WrongSetting `json:"left"`
}

func (t *tool) repairTopics(ctx context.Context, client *bus.Client, yes bool) error {
	changes, left, err := client.RepairTopics(ctx, yes)
	if t.output == "json" {
		err = errors.Join(err, t.json(repaired{Applied: yes, Changes: append([]bus.TopicChange{}, changes...), Left: append([]bus.WrongSetting{}, left...)}))
	} else {
		for _, c := range changes {
			fmt.Fprintln(t.out, c)
		}
		switch {
		case err != nil:
		case len(changes) == 0:
			fmt.Fprintln(t.out, "nothing to mend")
		case yes:
			fmt.Fprintf(t.out, "%d changes are in force\n", len(changes))
		default:
			fmt.Fprintf(t.out, "nothing was changed: do it with %s\n", t.again("topics repair --yes"+ofSession(client)))
		}
	}
	for _, w := range left {
		fmt.Fprintf(t.err, "autohedge: cannot mend %s\n    %s\n", w, w.Fix)
	}
	if err == nil && len(left) > 0 {
		return withCode(exitFailed, errSaid)
	}
	return err
}

// ensureOwnTopics is EnsureTopics on the embedded broker: that is ours, so what
// is wrong there is mended on the spot, which repair could not do before it runs.
func ensureOwnTopics(ctx context.Context, client *bus.Client, env component.Env) error {
	err := client.EnsureTopics(ctx)
	var wrong *bus.TopicsError
	if !errors.As(err, &wrong) {
		return err
	}
	changes, _, rerr := client.RepairTopics(ctx, true)
	for _, c := range changes {
		env.Log.Info("a setting of a topic was mended", "topic", c.Topic, "setting", c.Setting, "before", c.Before, "after", c.After)
	}
	if rerr != nil {
		return errors.Join(err, rerr)
	}
	return client.EnsureTopics(ctx)
}
