package kafkatest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The security listeners of a Secured broker; each is on a port of its own.
const (
	TLS      = "TLS"      // encrypted, for everybody
	MTLS     = "MTLS"     // encrypted, for those who have a certificate of the authority
	SASL     = "SASL"     // for users, not encrypted
	SASLTLS  = "SASLTLS"  // for users, encrypted
	EXPIRING = "EXPIRING" // for users, encrypted; a login counts for ExpiresAfter
)

// ExpiresAfter is how long a login on listener EXPIRING counts.
const ExpiresAfter = 1500 * time.Millisecond

// The user of the SASL listeners, for PLAIN and both SCRAM mechanisms.
const (
	User     = "trader"
	Password = "canary-5f1e" // #nosec G101 -- of the tests' own broker
)

// Secured is a broker with listeners for TLS and users.
type Secured struct {
	*Broker
	addrs map[string]string
	// CAFile is the authority's certificate, CertFile and KeyFile a client's;
	// StrangerCA is another authority, which signed nothing here.
	CAFile, CertFile, KeyFile, StrangerCA string
}

// On is host:port of a listener.
func (s *Secured) On(listener string) string { return s.addrs[listener] }

// StartSecured is Start for a broker with security listeners. Its certificate
// is for 127.0.0.1 alone; files holds the certificates and must outlive it.
func StartSecured(ctx context.Context, files string, properties map[string]string) (*Secured, error) {
	lib, err := Fetch(ctx)
	if err != nil {
		return nil, err
	}
	s := &Secured{}
	if err := s.certificates(files); err != nil {
		return nil, fmt.Errorf("making certificates: %w", err)
	}
	for attempt := 1; ; attempt++ {
		if err = s.start(ctx, lib, files, properties); err == nil {
			return s, nil
		}
		if attempt == portAttempts {
			return nil, fmt.Errorf("starting Apache Kafka with security: %w", err)
		}
	}
}

func (s *Secured) start(ctx context.Context, lib, files string, extra map[string]string) (err error) {
	dir, err := os.MkdirTemp("", "autohedge-kafka-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	names := []string{TLS, MTLS, SASL, SASLTLS, EXPIRING}
	ports, err := freePorts(3 + len(names))
	if err != nil {
		return err
	}
	b := newBroker(1, lib, dir, testOptions+sharedClasses(lib), ports[:3])
	p := b.properties(ports[1], "")
	maps.Copy(p, alone)
	maps.Copy(p, map[string]string{
		"controller.quorum.voters":         "1@" + ports[1],
		"offsets.topic.replication.factor": "1", "transaction.state.log.replication.factor": "1", "transaction.state.log.min.isr": "1",
		"ssl.keystore.type": "PEM", "ssl.keystore.location": filepath.Join(files, "broker.pem"),
		"ssl.truststore.type": "PEM", "ssl.truststore.location": s.CAFile,
		"sasl.enabled.mechanisms":            "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
		"listener.name.mtls.ssl.client.auth": "required",
		"listener.name." + strings.ToLower(EXPIRING) + ".connections.max.reauth.ms": fmt.Sprint(ExpiresAfter.Milliseconds()),
	})
	s.addrs = make(map[string]string)
	protocols := map[string]string{TLS: "SSL", MTLS: "SSL", SASL: "SASL_PLAINTEXT", SASLTLS: "SASL_SSL", EXPIRING: "SASL_SSL"}
	for i, name := range names {
		s.addrs[name] = ports[3+i]
		p["listeners"] += "," + name + "://" + ports[3+i]
		p["advertised.listeners"] += "," + name + "://" + ports[3+i]
		p["listener.security.protocol.map"] += "," + name + ":" + protocols[name]
		if strings.HasPrefix(protocols[name], "SASL") {
			at := "listener.name." + strings.ToLower(name) + "."
			p[at+"plain.sasl.jaas.config"] = fmt.Sprintf(`org.apache.kafka.common.security.plain.PlainLoginModule required user_%s="%s";`, User, Password)
			for _, m := range []string{"scram-sha-256", "scram-sha-512"} {
				p[at+m+".sasl.jaas.config"] = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
			}
		}
	}
	maps.Copy(p, extra)
	if err := b.format(ctx, clusterID(), p,
		"--add-scram", fmt.Sprintf("SCRAM-SHA-256=[name=%s,password=%s]", User, Password),
		"--add-scram", fmt.Sprintf("SCRAM-SHA-512=[name=%s,password=%s]", User, Password)); err != nil {
		return err
	}
	if err := b.Restart(ctx); err != nil {
		return err
	}
	s.Broker = b
	return nil
}

// certificates makes two authorities, and a certificate of the first for the
// broker and one for a client.
func (s *Secured) certificates(dir string) error {
	ca, caKey, err := authority("autohedge test authority")
	if err != nil {
		return err
	}
	stranger, _, err := authority("somebody else")
	if err != nil {
		return err
	}
	broker, brokerKey, err := signed("broker", ca, caKey)
	if err != nil {
		return err
	}
	client, clientKey, err := signed("client", ca, caKey)
	if err != nil {
		return err
	}
	caPEM := pemOf("CERTIFICATE", ca.Raw)
	files := map[string][]byte{
		"ca.pem": caPEM, "stranger.pem": pemOf("CERTIFICATE", stranger.Raw),
		"broker.pem": append(append(brokerKey, broker...), caPEM...), "client.pem": client, "client.key": clientKey,
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	s.CAFile, s.StrangerCA = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "stranger.pem")
	s.CertFile, s.KeyFile = filepath.Join(dir, "client.pem"), filepath.Join(dir, "client.key")
	return nil
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func authority(name string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

func signed(name string, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (cert, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, &key.PublicKey, caKey)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	return pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", keyDER), err
}
