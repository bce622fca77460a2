package receiver

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// rule names why a request is refused; it stands in the message, the audit log and the metrics. docs/receiver.md has
// a line for each.
type rule string

const (
	ruleProtobuf     rule = "protobuf"
	ruleClusterID    rule = "cluster_id"
	ruleVersion      rule = "version"
	ruleTeamID       rule = "team_id"
	ruleEntries      rule = "entries"
	ruleType         rule = "type"
	ruleZlib         rule = "zlib"
	ruleEntrySize    rule = "entry_size"
	ruleSnapshotSize rule = "snapshot_size"
	ruleUTF8         rule = "utf8"
	ruleJSON         rule = "json"
	ruleObject       rule = "object"
	ruleMetadata     rule = "metadata"
	ruleVersionInfo  rule = "version_info"
	ruleDuplicate    rule = "duplicate"
	ruleContent      rule = "content"
	ruleSuspicion    rule = "suspicion"
	ruleAccess       rule = "access"
	ruleEnroll       rule = "enroll"
	ruleRate         rule = "rate"
	ruleBusy         rule = "busy"
	ruleMessageSize  rule = "message_size"
	ruleTimeout      rule = "timeout"
	ruleCanceled     rule = "canceled"
	ruleCapacity     rule = "capacity"
	ruleStorage      rule = "storage"
	ruleElection     rule = "election"
	ruleTLS          rule = "tls"
	ruleConnections  rule = "connections"
	// ruleAPI stands for refusals of the HTTP API.
	ruleAPI rule = "api"
)

// rules are all of them, for the metrics.
var rules = []rule{
	ruleProtobuf, ruleClusterID, ruleVersion, ruleTeamID, ruleEntries, ruleType, ruleZlib, ruleEntrySize, ruleSnapshotSize,
	ruleUTF8, ruleJSON, ruleObject, ruleMetadata, ruleVersionInfo, ruleDuplicate, ruleContent, ruleSuspicion, ruleAccess,
	ruleEnroll, ruleRate, ruleBusy, ruleMessageSize, ruleTimeout, ruleCanceled, ruleCapacity, ruleStorage, ruleElection, ruleTLS,
	ruleConnections, ruleAPI,
}

// refusal is an error that is answered to the sender as a gRPC status.
type refusal struct {
	code codes.Code
	rule rule
	what string
	// advice is the way out.
	advice string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%s (rule %s); %s", r.what, r.rule, r.advice)
}

// GRPCStatus makes gRPC send the refusal as it is.
func (r *refusal) GRPCStatus() *status.Status { return status.New(r.code, r.Error()) }

func invalid(why rule, advice, format string, args ...any) *refusal {
	return &refusal{code: codes.InvalidArgument, rule: why, what: fmt.Sprintf(format, args...), advice: advice}
}
