// Package arch holds the policy tests: the rules of the house that would not
// hold if no test held them. It has no code of its own.
package arch
