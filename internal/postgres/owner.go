package postgres

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// unprivileged is whom a root process runs Postgres as; nil where we are not root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("postgres refuses to run as root, and there is neither a user postgres nor nobody: start as an ordinary user")
}

// ownerOf is whom Postgres runs as in dir: nil for ourselves. As root, a folder that is root's is given away, and one that already is
// somebody's stays so: user ids differ from machine to machine, and the data is worth more than the name.
func ownerOf(dir string) (*syscall.Credential, error) {
	owner, err := unprivileged()
	if err != nil || owner == nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if s := info.Sys().(*syscall.Stat_t); s.Uid != 0 {
		owner = &syscall.Credential{Uid: s.Uid, Gid: s.Gid}
	} else if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
		return nil, fmt.Errorf("give the data folder to the user of Postgres: %w", err)
	}
	if at := unreachable(dir, owner); at != "" {
		return nil, fmt.Errorf("data folder %s: user %d, whom root runs Postgres as, may not enter %s: choose another folder, or chmod o+x %s",
			dir, owner.Uid, at, at)
	}
	return owner, nil
}

// unreachable is the topmost folder on the way to and including path that the user may not enter; "" where there is none.
func unreachable(path string, who *syscall.Credential) string {
	if parent := filepath.Dir(path); parent != path {
		if at := unreachable(parent, who); at != "" {
			return at
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return path
	}
	s := info.Sys().(*syscall.Stat_t)
	allowed := info.Mode().Perm() & 0o001
	switch {
	case s.Uid == who.Uid:
		allowed = info.Mode().Perm() & 0o100
	case s.Gid == who.Gid:
		allowed = info.Mode().Perm() & 0o010
	}
	if allowed == 0 {
		return path
	}
	return ""
}
