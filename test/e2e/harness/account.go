package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// accountNamespace holds the service accounts of the agents under test. It exists in every cluster.
const accountNamespace = "kube-system"

// Account is a service account, as a pseudo-agent in a Pod has one: its token is in a file that is replaced now and then.
type Account struct {
	Name       string
	Kubeconfig string

	cluster   *Cluster
	tokenFile string
	issued    time.Time // when the present token was
	expires   time.Time
	lifetime  time.Duration // that was asked for
}

// ShortestToken is the shortest lifetime of a token that an apiserver grants.
const ShortestToken = 10 * time.Minute

// NewAccount creates a service account without any permission and its kubeconfig.
func (c *Cluster) NewAccount(ctx context.Context, name string) (*Account, error) {
	a := &Account{
		Name:       name,
		Kubeconfig: filepath.Join(c.Dir, name+".kubeconfig"),
		cluster:    c,
		tokenFile:  filepath.Join(c.Dir, name+".token"),
	}
	if err := a.create(ctx); err != nil {
		return nil, err
	}
	if err := a.RotateToken(ctx); err != nil {
		return nil, err
	}
	return a, c.WriteKubeconfig(a.Kubeconfig, &clientcmdapi.AuthInfo{TokenFile: a.tokenFile})
}

func (a *Account) create(ctx context.Context) error {
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: a.Name}}
	_, err := a.cluster.Client.CoreV1().ServiceAccounts(accountNamespace).Create(ctx, sa, metav1.CreateOptions{})
	return err
}

// RotateToken puts a fresh token into the file, which is good for an hour.
func (a *Account) RotateToken(ctx context.Context) error { return a.IssueToken(ctx, time.Hour) }

// IssueToken puts a fresh token of that lifetime into the file.
func (a *Account) IssueToken(ctx context.Context, lifetime time.Duration) error {
	seconds := int64(lifetime.Seconds())
	issued := time.Now()
	r, err := a.cluster.Client.CoreV1().ServiceAccounts(accountNamespace).
		CreateToken(ctx, a.Name, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("token of %s: %w", a.Name, err)
	}
	// What is asked for next is what was asked for, not what is left of it: the end is given in whole seconds, and a second
	// less than the shortest lifetime is refused.
	a.issued, a.expires, a.lifetime = issued, r.Status.ExpirationTimestamp.Time, lifetime
	// Replaced as a whole: a reader sees either token, never a part of one.
	tmp := a.tokenFile + ".new"
	if err := os.WriteFile(tmp, []byte(r.Status.Token), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, a.tokenFile)
}

// KeepToken renews the token until the context ends, as a kubelet does: when 80 % of its lifetime have passed, with as long
// a lifetime as before. While the apiserver does not answer it tries again every ten seconds. Nobody else may issue
// tokens of the account meanwhile.
func (a *Account) KeepToken(ctx context.Context) {
	wait := a.untilRenewal()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if err := a.IssueToken(ctx, a.lifetime); err != nil {
			wait = 10 * time.Second
			continue
		}
		wait = a.untilRenewal()
	}
}

func (a *Account) untilRenewal() time.Duration {
	return time.Until(a.issued.Add(a.expires.Sub(a.issued) * 8 / 10))
}

// Token returns the present token.
func (a *Account) Token() (string, error) {
	b, err := os.ReadFile(a.tokenFile)
	return string(b), err
}

// RevokeTokens makes every token issued so far invalid, by recreating the account. Permissions go by its name and stay.
func (a *Account) RevokeTokens(ctx context.Context) error {
	if err := a.cluster.Client.CoreV1().ServiceAccounts(accountNamespace).Delete(ctx, a.Name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return a.create(ctx)
}

// Grant binds the rules to the account in the whole cluster, under a name by which they can be revoked. Rules that it
// had under that name are replaced.
func (a *Account) Grant(ctx context.Context, name string, rules ...rbacv1.PolicyRule) error {
	name = a.Name + "-" + name
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	roles := a.cluster.Client.RbacV1().ClusterRoles()
	if _, err := roles.Create(ctx, role, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
		if _, err = roles.Update(ctx, role, metav1.UpdateOptions{}); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	_, err := a.cluster.Client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   a.subjects(),
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// GrantIn binds the rules to the account in one namespace.
func (a *Account) GrantIn(ctx context.Context, namespace, name string, rules ...rbacv1.PolicyRule) error {
	name = a.Name + "-" + name
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	if _, err := a.cluster.Client.RbacV1().Roles(namespace).Create(ctx, role, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := a.cluster.Client.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects:   a.subjects(),
	}, metav1.CreateOptions{})
	return err
}

// Revoke takes back what was granted in the whole cluster under the name.
func (a *Account) Revoke(ctx context.Context, name string) error {
	name = a.Name + "-" + name
	if err := a.cluster.Client.RbacV1().ClusterRoleBindings().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return a.cluster.Client.RbacV1().ClusterRoles().Delete(ctx, name, metav1.DeleteOptions{})
}

func (a *Account) subjects() []rbacv1.Subject {
	return []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: accountNamespace, Name: a.Name}}
}

// ReadAll are the rules with which list and watch of the resources, given as resource or resource.group, are allowed.
func ReadAll(resources ...string) []rbacv1.PolicyRule {
	rules := make([]rbacv1.PolicyRule, 0, len(resources))
	for _, r := range resources {
		name, group, _ := strings.Cut(r, ".")
		rules = append(rules, rbacv1.PolicyRule{
			APIGroups: []string{group}, Resources: []string{name}, Verbs: []string{"get", "list", "watch"},
		})
	}
	return rules
}
