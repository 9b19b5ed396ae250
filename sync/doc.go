// Package sync holds the rules that carry a person's name badge and recording from NameCoach to BLN, and what drives
// them.
//
// The rules are pure: Walk and Reading (which window of update time to read, and whether it was read whole), Link (which
// directory user a person is), Choose (which participant speaks), Layout (what is written, and where), Compute (the
// plan) and Guard. They know no client, no database and no clock.
//
// Bridge drives them in units that any process may do, in any order, any number of times: a window, a directory page, a
// batch of people to link, a batch of users to decide on, a batch of users to write.
package sync
