package bus

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// KeyUser is the user of the embedded broker's key.
const KeyUser = "autohedge"

// Login is a user of the embedded broker who may do everything.
type Login struct {
	User     string
	Password component.Secret
}

// The mechanisms of the embedded broker. Each user has all of them: kfake takes an empty
// password for a user whom a mechanism does not know.
var embeddedMechanisms = [...]string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}

// What whoever has not logged in is called in access control lists.
const anonymous = "User:ANONYMOUS"

// privateTopics are read by nobody without a credential: what models and people wrote,
// and what holds copies of it.
var privateTopics = []string{event.TopicJournal, event.TopicControl, event.TopicDead, event.TopicAgentState}

// grant is one thing that whoever has not logged in may do.
type openGrant struct {
	resource  kmsg.ACLResourceType
	name      string
	operation kmsg.ACLOperation
}

// openGrants are the rights of connections without a login. Topics of sessions are not
// among them, and no group may be joined: a group's offsets are written.
func openGrants(openReads bool) (all []openGrant) {
	if !openReads {
		return nil
	}
	for _, spec := range event.Topics {
		if !slices.Contains(privateTopics, spec.Name) {
			all = append(all, openGrant{kmsg.ACLResourceTypeTopic, spec.Name, kmsg.ACLOperationRead},
				openGrant{kmsg.ACLResourceTypeTopic, spec.Name, kmsg.ACLOperationDescribeConfigs})
		}
	}
	return append(all, openGrant{kmsg.ACLResourceTypeGroup, "*", kmsg.ACLOperationDescribe},
		openGrant{kmsg.ACLResourceTypeCluster, "kafka-cluster", kmsg.ACLOperationDescribe})
}

// accessOptions make a broker that lets whoever has one of the logins do everything, and
// others read. The rights are made at every start: those of the last one, which kfake
// wrote into the folder, do not count.
func accessOptions(cfg EmbeddedConfig) ([]kfake.Opt, error) {
	opts := []kfake.Opt{kfake.EnableACLs()}
	for _, l := range cfg.Logins {
		if l.User == "" || l.Password.IsZero() {
			return nil, errors.New("a user without a name or a password")
		}
		for _, m := range embeddedMechanisms {
			opts = append(opts, kfake.Superuser(m, l.User, l.Password.Reveal()))
		}
	}
	if cfg.Dir == "" {
		return append(opts, kfake.User("PLAIN", "ANONYMOUS", newID().String(), seeds(cfg.OpenReads)...)), nil
	}
	if err := forgetLogins(cfg.Dir); err != nil {
		return nil, err
	}
	path := filepath.Join(cfg.Dir, "acls.json")
	if _, err := os.Stat(filepath.Join(cfg.Dir, "meta.json")); errors.Is(err, fs.ErrNotExist) {
		// In a new folder kfake takes what it is given, and writes it.
		return append(opts, kfake.User("PLAIN", "ANONYMOUS", newID().String(), seeds(cfg.OpenReads)...)), nil
	}
	type acl struct {
		Principal    string `json:"principal"`
		Host         string `json:"host"`
		ResourceType int8   `json:"resource_type"`
		ResourceName string `json:"resource_name"`
		Pattern      int8   `json:"pattern"`
		Operation    int8   `json:"operation"`
		Permission   int8   `json:"permission"`
	}
	file := struct {
		Version int   `json:"version"`
		ACLs    []acl `json:"acls"`
	}{1, []acl{}}
	for _, g := range openGrants(cfg.OpenReads) {
		file.ACLs = append(file.ACLs, acl{
			anonymous, "*", int8(g.resource), g.name, int8(kmsg.ACLResourcePatternTypeLiteral), int8(g.operation), int8(kmsg.ACLPermissionTypeAllow),
		})
	}
	text, err := json.Marshal(file)
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("writing who may read: %w", err)
	}
	return opts, nil
}

func seeds(openReads bool) (all []kfake.ACL) {
	for _, g := range openGrants(openReads) {
		all = append(all, kfake.ACL{Resource: g.resource, Name: g.name, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: g.operation, Allow: true})
	}
	return all
}

// forgetLogins removes the passwords that kfake writes into its folder. Left there, they
// would also count at the next start, in place of its own.
func forgetLogins(dir string) error {
	if err := os.Remove(filepath.Join(dir, "sasl.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the logins of the last start: %w", err)
	}
	return nil
}
