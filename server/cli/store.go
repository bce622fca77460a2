package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/pseudo-agent/pseudo-agent/server/cli/apiclient"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// storeCommand works on the file of the embedded store. But for a backup pseudo-server must not run on it meanwhile.
func storeCommand() *cobra.Command {
	root := &cobra.Command{
		Use: "store", Short: "Backs up, compacts, checks, repairs or restores the file of the embedded store", Args: Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	check := &cobra.Command{
		Use: "check FILE", Short: "Reads all of the file and tells what is damaged and what can be saved; changes nothing", Args: Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			x, err := store.Examine(args[0])
			if err != nil {
				return harmless(err)
			}
			if tellExamined(cmd, x); x.Damaged > 0 {
				return errors.New("the store is damaged; keep what can be read with: pseudo-server store repair FILE")
			}
			return nil
		},
	}
	repair := &cobra.Command{
		Use: "repair FILE", Short: "Keeps what can be read, whole clusters and documents; the damaged file is kept beside it", Args: Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			x, kept, err := store.Repair(args[0], time.Now())
			if err != nil {
				return harmless(err)
			}
			tellExamined(cmd, x)
			cmd.Println(Harmless(fmt.Sprintf("%s now has what can be read; the file as it was is %s", args[0], kept)))
			return nil
		},
	}
	var from string
	restore := &cobra.Command{
		Use: "restore FILE --from COPY", Short: "Puts a copy that is whole in the place of the file, which is kept beside it", Args: Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			kept, err := store.Restore(args[0], from, time.Now())
			if err != nil {
				return harmless(err)
			}
			text := fmt.Sprintf("%s is now a copy of %s", args[0], from)
			if kept != "" {
				text += "; the file as it was is " + kept
			}
			cmd.Println(Harmless(text))
			return nil
		},
	}
	restore.Flags().StringVar(&from, "from", "", "the copy")
	_ = restore.MarkFlagRequired("from")
	root.AddCommand(backupCommand(), compactCommand(), check, repair, restore)
	return root
}

func compactCommand() *cobra.Command {
	return &cobra.Command{
		Use: "compact FILE", Short: "Makes the file as small as what is in it; needs as much room beside it", Args: Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			done, err := store.Compact(cmd.Context(), args[0])
			if err != nil {
				return harmless(err)
			}
			cmd.Println(Harmless(fmt.Sprintf("%s is compacted: %s", args[0], done)))
			return nil
		},
	}
}

// backupCommand takes a backup of a running pseudo-server, or of a file that none has open.
func backupCommand() *cobra.Command {
	var client apiclient.Options
	var from string
	cmd := &cobra.Command{
		Use: "backup COPY", Short: "Writes a copy of the store of a running pseudo-server, or with --from of a file, to a new file", Args: Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := backup(cmd.Context(), client, from, args[0])
			if err != nil {
				return harmless(err)
			}
			cmd.Println(Harmless(args[0] + " is a copy of the store, and was read to its end without damage"))
			return nil
		},
	}
	client.Flags(cmd.Flags())
	cmd.Flags().StringVar(&from, "from", "", "file to copy, which no pseudo-server has open, instead of asking one that runs")
	return cmd
}

func backup(ctx context.Context, client apiclient.Options, from, to string) (err error) {
	if from != "" {
		return store.Backup(ctx, from, to) //nolint:wrapcheck // it names the file
	}
	c, err := apiclient.New(client)
	if err != nil {
		return UsageError{Err: err}
	}
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("%s is there already: name another file", to)
	}
	body, size, err := c.Download(ctx, []string{"store", "backup"})
	if err != nil {
		return err //nolint:wrapcheck // it names the server
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	return store.SaveBackup(body, size, to) //nolint:wrapcheck // it names the file
}

// harmless is an error whose text, which may have names out of the file, cannot control the terminal.
func harmless(err error) error { return errors.New(Harmless(err.Error())) }

func tellExamined(cmd *cobra.Command, x *store.Examined) {
	for _, what := range x.Damage {
		cmd.Println(Harmless("damaged: " + what))
	}
	if more := x.Damaged - len(x.Damage); more > 0 {
		cmd.Println(fmt.Sprintf("damaged: %d more", more))
	}
	for _, id := range slices.Sorted(maps.Keys(x.Lost)) {
		cmd.Println(Harmless(fmt.Sprintf("lost: cluster %s: %s; it comes back with the next report of its agent", id, x.Lost[id])))
	}
	for _, id := range x.Whole {
		cmd.Println(Harmless("whole: cluster " + id))
	}
	cmd.Println(fmt.Sprintf("whole: %d documents (designations, plugins and the like)", x.Documents))
}
