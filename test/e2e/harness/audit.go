package harness

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

const auditLog = "audit.log"

// auditPolicy records what service accounts ask for, without bodies.
const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups: ["system:serviceaccounts"]
- level: None
`

// AuditEvent is a request of a service account, as the apiserver's audit log has it.
type AuditEvent struct {
	Verb string `json:"verb"`
	URI  string `json:"requestURI"`
	User struct {
		Name string `json:"username"`
	} `json:"user"`
	Response struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
}

// Audit returns the answered requests of a service account, in the order of the log. A watch is in it twice: when it
// begins and when it ends.
func (c *Cluster) Audit(namespace, account string) ([]AuditEvent, error) {
	f, err := os.Open(filepath.Join(c.Dir, auditLog))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []AuditEvent
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e AuditEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		if e.User.Name == "system:serviceaccount:"+namespace+":"+account {
			out = append(out, e)
		}
	}
	return out, lines.Err()
}
