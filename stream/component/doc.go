// Package component holds what every plug-in and every role is built from: the
// declaration and its registry, the environment handed to it (logger, metrics,
// clock), the secret type, configuration problems, and the error types that
// choose behaviour.
//
// It must not know any plug-in, role, topic or event. Start with Env, then
// Registry.
package component
