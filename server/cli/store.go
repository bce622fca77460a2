package cli

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// storeCommand works on the file of the embedded store. pseudo-server must not run on it meanwhile.
func storeCommand() *cobra.Command {
	root := &cobra.Command{
		Use: "store", Short: "Checks, repairs or restores the file of the embedded store, while pseudo-server does not run", Args: Args(cobra.NoArgs),
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
	root.AddCommand(check, repair, restore)
	return root
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
