// Package config holds the configuration of the programs: one struct each, its defaults, its rules and its sources.
//
// It relies on viper for merging and precedence (defaults, DeepFlow files, own file, environment, flags), on yaml.v3 for
// line numbers, and on the resources package for the rules of api_resources. It knows nothing of Kubernetes clients or
// gRPC; the programs map its structs to the options of their parts.
//
// It promises that what it returns without an error is valid, that an error names every mistake at once, each as a
// *Mistake with key, value, what is allowed and where it stands, and that it never panics whatever a file holds.
package config
