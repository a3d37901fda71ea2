package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/cmd/internal/config"
	"github.com/autohedge/autohedge/cmd/internal/folder"
	"github.com/autohedge/autohedge/cmd/internal/obs"
	"github.com/autohedge/autohedge/execution"
	"github.com/autohedge/autohedge/signals"
	"github.com/autohedge/autohedge/sinks"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// decision is what the commands that change what is stored of a topic have in
// common: they need a reason, and a yes.
type decision struct {
	session  *string
	who, why string
	yes      bool
}

func (d *decision) flags(c *cobra.Command) {
	c.Flags().StringVar(&d.who, "who", "", "who says so (default: the user)")
	c.Flags().StringVar(&d.why, "why", "", "the reason, which is recorded")
	c.Flags().BoolVar(&d.yes, "yes", false, "do not ask")
}

func (d *decision) check() error {
	if strings.TrimSpace(d.why) == "" {
		return withCode(exitUsage, errors.New("why? say it with --why \"...\": it is recorded"))
	}
	return nil
}

// confirm says what is about to be done and asks for a yes.
func (t *tool) confirm(d *decision, what string) error {
	if d.yes {
		return nil
	}
	fmt.Fprintf(t.err, "%s\nGo on? [y/N] ", what)
	line, err := bufio.NewReader(t.in).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); answer == "y" || answer == "yes" {
		return nil
	}
	if err != nil {
		fmt.Fprintln(t.err)
	}
	return withCode(exitUsage, errors.New("nothing was changed: answer y, or say --yes"))
}

func (t *tool) skipCommand(session *string) *cobra.Command {
	d := decision{session: session}
	var role, to string
	at := int64(-1)
	c := &cobra.Command{
		Use: "skip TOPIC/PARTITION --group ROLE --to OFFSET|start --why REASON", Short: "Let roles go on past records that are gone or cannot be used", Args: args(cobra.ExactArgs(1)),
		Long: `With --at it lets every role pass over one record that cannot be used, which a halt
or a log line named; a role that runs reads it at its next start. Halts stay until
they are resumed.

Without --at, skip lets a role that retention overtook go on at the log's start. The records in
between are gone; the range is stated in topic meta and as a dead letter, and the
sinks count it as expired, so that the proof of landing balances. Refused while
the role runs, when the records are still there, and when it would go back.`,
		Example: `  autohedge topics skip md/2 --group sinks --to start --why "off for two weeks"
  autohedge topics skip md/2 --group signals --to 90210 --why "off for two weeks" --yes --output json
  autohedge topics skip orders/1 --at 33 --why "written by a test program"`,
		RunE: func(cmd *cobra.Command, a []string) error {
			if err := d.check(); err != nil {
				return err
			}
			r := bus.SkipRequest{Role: role, To: bus.FromStart, Stands: -1, Who: whoever(d.who), Why: d.why}
			var partition string
			var ok bool
			if r.Topic, partition, ok = strings.Cut(a[0], "/"); !ok {
				return withCode(exitUsage, fmt.Errorf("%q names no partition: want TOPIC/PARTITION, as md/2", a[0]))
			}
			p, err := strconv.ParseInt(partition, 10, 32)
			if err != nil {
				return withCode(exitUsage, fmt.Errorf("%q names no partition: want TOPIC/PARTITION, as md/2", a[0]))
			}
			r.Partition = int32(p)
			if cmd.Flags().Changed("at") {
				if at < 0 {
					return withCode(exitUsage, fmt.Errorf("--at %d: want the offset of a record", at))
				}
				return t.withState(cmd.Context(), d.session, func(ctx context.Context, s *stateTool) error { return s.skipRecord(ctx, &d, r, at) })
			}
			if !slices.ContainsFunc(roleTable(), func(s roleSpec) bool { return s.name == role }) {
				return withCode(exitUsage, fmt.Errorf("unknown role %q: --group is the role that was overtaken, as the error names it", role))
			}
			if to != "start" {
				if r.To, err = strconv.ParseInt(to, 10, 64); err != nil || r.To < 0 {
					return withCode(exitUsage, fmt.Errorf("--to %q: want an offset, or start", to))
				}
			}
			return t.withState(cmd.Context(), d.session, func(ctx context.Context, s *stateTool) error { return s.skip(ctx, &d, r) })
		},
	}
	d.flags(c)
	c.Flags().StringVar(&role, "group", "", "the role that was overtaken")
	c.Flags().Int64Var(&at, "at", -1, "the offset of one record that cannot be used, for every role")
	c.Flags().StringVar(&to, "to", "start", "where it goes on: the log's start, as an offset or by that name")
	return c
}

func (t *tool) adoptCommand(session *string) *cobra.Command {
	d := decision{session: session}
	var all bool
	c := &cobra.Command{
		Use: "adopt TOPIC... --why REASON", Short: "Accept topics' logs as they are now",
		Long: `adopt accepts a log that is not the one that was stored: a topic that was deleted,
a log that was cut, a data folder that was used with another Kafka. The topic
begins a new life, an incarnation, at the log's end; a topic that is missing is
created. Each role goes on where it stood, or at that end if it stood beyond it.
Rows that landed before stay, under their former incarnation.

Adopting orders, fills or positions halts trading: look at the broker's positions
before you resume. Refused while a role runs.`,
		Example: `  autohedge topics adopt md --why "the disk lost the last minutes"
  autohedge topics adopt --all --why "moved to another Kafka" --yes`,
		RunE: func(cmd *cobra.Command, a []string) error {
			return t.beginLives(cmd.Context(), &d, a, all, false, false)
		},
	}
	d.flags(c)
	c.Flags().BoolVar(&all, "all", false, "every topic")
	return c
}

func (t *tool) discardCommand(session *string) *cobra.Command {
	d := decision{session: session}
	var all, rows bool
	c := &cobra.Command{
		Use: "discard TOPIC... --why REASON", Short: "Forget what is stored of topics and begin anew",
		Long: `discard forgets what is stored of a topic: where the groups stand, snapshots, what
has landed. The topic begins a new life, an incarnation, at the log's start, and
everything that is in the log is read and landed again; a topic that is missing
is created. With --rows the rows of its former life are taken out of ClickHouse,
else they stay beside the new ones.

Discarding orders, fills or positions halts trading: look at the broker's
positions before you resume. Refused while a role runs.`,
		Example: `  autohedge topics discard md --rows --why "a new ClickHouse"
  autohedge topics discard --all --rows --why "begin anew" --yes`,
		RunE: func(cmd *cobra.Command, a []string) error {
			return t.beginLives(cmd.Context(), &d, a, all, true, rows)
		},
	}
	d.flags(c)
	c.Flags().BoolVar(&all, "all", false, "every topic")
	c.Flags().BoolVar(&rows, "rows", false, "also delete the rows of the former life from ClickHouse")
	return c
}

// beginLives is adopt and discard.
func (t *tool) beginLives(ctx context.Context, d *decision, topics []string, all, discard, rows bool) error {
	if err := d.check(); err != nil {
		return err
	}
	if all == (len(topics) > 0) {
		return withCode(exitUsage, errors.New("which topics? name them, or say --all"))
	}
	if all {
		for _, spec := range event.Topics {
			if spec.Name != event.TopicMeta {
				topics = append(topics, spec.Name)
			}
		}
	}
	for _, topic := range topics {
		if _, known := event.Topic(topic); !known || topic == event.TopicMeta {
			return withCode(exitUsage, fmt.Errorf("unknown topic %q: `autohedge list topics` names them; meta keeps the lives of the others", topic))
		}
	}
	slices.Sort(topics)
	topics = slices.Compact(topics)
	return t.withState(ctx, d.session, func(ctx context.Context, s *stateTool) error { return s.beginLives(ctx, d, topics, discard, rows) })
}

// stateTool is what the commands that change what is stored work on.
type stateTool struct {
	*tool
	cfg    config.Config
	folder *folder.Folder
	client *bus.Client
}

// withState runs f with a client whose topics nobody has checked: these commands
// mend what the check refuses. The folder's broker is started where none runs.
func (t *tool) withState(ctx context.Context, session *string, f func(context.Context, *stateTool) error) (err error) {
	s := &stateTool{tool: t}
	if s.cfg, err = t.loadConfig(); err != nil {
		return err
	}
	if s.folder, err = t.openFolder(s.cfg); err != nil {
		return err
	}
	log, err := obs.NewLogger(obs.LogConfig{Level: "warn", Format: "text"}, t.err)
	if err != nil {
		return err
	}
	e := newEngine(s.cfg, s.folder, log, component.SystemClock{}, t.err)
	defer func() {
		e.close(context.WithoutCancel(ctx))
		for _, fault := range e.faultList() {
			err = errors.Join(err, errors.New(fault))
		}
	}()
	kafka := s.cfg.Kafka
	if len(kafka.Brokers) == 0 {
		owner, err := e.embeddedKafka(ctx)
		if err != nil {
			return withCode(exitDown, err)
		}
		kafka = kafkaOf(kafka, owner)
	}
	kafka.Session = *session
	if s.client, err = bus.Connect(ctx, kafka, e.env); err != nil {
		return withCode(exitDown, err)
	}
	e.client = s.client
	if *session != "" {
		names, err := s.client.Sessions(ctx)
		if err == nil && !slices.Contains(names, *session) {
			err = fmt.Errorf("there is no session %q: `autohedge session list` shows them", *session)
		}
		if err != nil {
			return err
		}
	}
	return f(ctx, s)
}

func (s *stateTool) skip(ctx context.Context, d *decision, r bus.SkipRequest) error {
	if err := s.client.EnsureTopics(ctx); err != nil {
		return logCode(err)
	}
	if err := s.stands(ctx, &r); err != nil {
		return err
	}
	x, err := s.client.CheckSkip(ctx, r)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%s goes on at offset %d of %s/%d without the %d records from %d on, which are gone.", r.Role, x.To, x.Topic, x.Partition, x.To-x.From, x.From)
	if err := s.confirm(d, what); err != nil {
		return err
	}
	if x, err = s.client.Skip(ctx, r); err != nil {
		return err
	}
	if s.output == "json" {
		return s.json(x)
	}
	fmt.Fprintf(s.out, "skipped %s/%d from %d to %d for %s: %d records\n", x.Topic, x.Partition, x.From, x.To, x.Group, x.To-x.From)
	return nil
}

// skipRecord lets every role pass over one record.
func (s *stateTool) skipRecord(ctx context.Context, d *decision, r bus.SkipRequest, at int64) error {
	if err := s.client.EnsureTopics(ctx); err != nil {
		return logCode(err)
	}
	if err := s.confirm(d, fmt.Sprintf("Every role passes over the record at offset %d of %s/%d from its next start on.", at, r.Topic, r.Partition)); err != nil {
		return err
	}
	x, err := s.client.SkipRecord(ctx, r.Topic, r.Partition, at, r.Who, r.Why)
	if err != nil {
		return err
	}
	if s.output == "json" {
		return s.json(x)
	}
	fmt.Fprintf(s.out, "skipped %s/%d at offset %d\n", x.Topic, x.Partition, x.From)
	return nil
}

// stands asks the state of the role where it stands, if it keeps any.
func (s *stateTool) stands(ctx context.Context, r *bus.SkipRequest) (err error) {
	switch n := s.client.Partitions(r.Topic); {
	case r.Partition < 0 || r.Partition >= n: // CheckSkip says so
	case r.Role == "sinks":
		r.Stands, err = sinks.Stands(ctx, s.client, r.Topic, r.Partition)
	case r.Role == signals.Name && r.Topic == event.TopicMarket:
		r.Rebuilds = true
		r.Stands, err = signals.Stands(ctx, s.client, r.Partition)
	}
	return err
}

// livesReport is what adopt and discard print as JSON.
type livesReport struct {
	Topics  []bus.NewLife                `json:"topics"`
	Removed map[string]map[string]uint64 `json:"removed_rows,omitempty"` // by topic and table
	Halted  bool                         `json:"halted"`
}

// moneyTopics are what positions follow from.
var moneyTopics = [...]string{event.TopicOrders, event.TopicFills, event.TopicPositions}

func (s *stateTool) beginLives(ctx context.Context, d *decision, topics []string, discard, rows bool) error {
	verb, what := "adopted", "The logs of "+strings.Join(topics, ", ")+" are accepted as they are now; what is stored of their former lives no longer counts."
	begin := s.client.AdoptTopics
	if discard {
		verb, what = "discarded", "What is stored of "+strings.Join(topics, ", ")+" is forgotten; their logs are read and landed again from their start."
		begin = s.client.DiscardTopics
		if rows {
			what += " The rows of their former lives are deleted from ClickHouse."
		}
	}
	report := livesReport{}
	money := *d.session == "" && slices.ContainsFunc(topics, func(t string) bool { return slices.Contains(moneyTopics[:], t) })
	if money {
		what += " Trading is halted until you resume it: positions follow from these logs, and the broker may hold others."
	}
	if err := s.confirm(d, what); err != nil {
		return err
	}
	if money {
		// First the halt: should this end in between, nothing is traded on half of it.
		why := fmt.Sprintf("%s %s: compare the positions with the broker's (%s)", strings.Join(topics, ", "), verb, d.why)
		paths := execution.Paths{PaperDir: s.folder.Paper(), HaltFile: s.folder.Halt(), Socket: s.folder.Socket()}
		if _, err := execution.RequestHalt(ctx, paths, nil, execution.ScopeAll, whoever(d.who), why, event.HaltStop); err != nil {
			return err
		}
		report.Halted = true
	}
	var err error
	if report.Topics, err = begin(ctx, topics, whoever(d.who), d.why); err != nil {
		return err
	}
	if *d.session == "" {
		if err := s.forgetLogs(topics); err != nil {
			return err
		}
	}
	if rows {
		if report.Removed, err = s.removeRows(ctx, *d.session, report.Topics); err != nil {
			return err
		}
	}
	if s.output == "json" {
		return s.json(report)
	}
	for _, n := range report.Topics {
		former := "none"
		if !n.Former.IsZero() {
			former = n.Former.String()
		}
		fmt.Fprintf(s.out, "%s %s: incarnation %s (former: %s) begins at %v, the log ends at %v\n", verb, n.Topic, n.Incarnation, former, n.Begins, n.Ends)
		for _, g := range n.Groups {
			fmt.Fprintf(s.out, "  %s goes from %d to %d in %s/%d\n", g.Group, g.From, g.To, n.Topic, g.Partition)
		}
		for table, rows := range report.Removed[n.Topic] {
			fmt.Fprintf(s.out, "  %d rows of %s deleted\n", rows, table)
		}
	}
	if report.Halted {
		fmt.Fprintln(s.out, "halted: compare the positions with the broker's, then `autohedge resume --why \"...\"`")
	}
	return nil
}

// forgetLogs takes topics out of what the folder knows; the next start notes them
// as they are.
func (s *stateTool) forgetLogs(topics []string) error {
	known, err := readLogs(s.folder)
	if err != nil {
		known = map[string]knownLog{}
	}
	for _, t := range topics {
		delete(known, t)
	}
	return writeLogs(s.folder, known)
}

// removeRows deletes the rows of every life of the topics but the new one.
func (s *stateTool) removeRows(ctx context.Context, session string, lives []bus.NewLife) (map[string]map[string]uint64, error) {
	store, closeAll, err := s.storeClient(ctx, session)
	if err != nil {
		return nil, err
	}
	removed := make(map[string]map[string]uint64)
	for _, n := range lives {
		proofs, perr := store.LandedProof(ctx)
		if err = perr; err != nil {
			break
		}
		former := map[event.ID]bool{n.Former: !n.Former.IsZero()}
		for _, p := range proofs {
			if p.Topic == n.Topic {
				former[p.Incarnation] = true
			}
		}
		removed[n.Topic] = make(map[string]uint64)
		for id, yes := range former {
			if !yes || id == n.Incarnation {
				continue
			}
			tables, derr := store.DropIncarnation(ctx, n.Topic, id)
			for table, rows := range tables {
				removed[n.Topic][table] += rows
			}
			err = errors.Join(err, derr)
		}
	}
	return removed, errors.Join(err, closeAll())
}

// logCode gives an error of a connection its exit code: a log that is not the one
// that was stored is no dependency that is down.
func logCode(err error) error {
	var fault *bus.LogError
	if errors.As(err, &fault) {
		return withCode(exitFailed, err)
	}
	return withCode(exitDown, err)
}
