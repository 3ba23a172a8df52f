package host

import (
	"errors"
	"io/fs"
	"syscall"

	"eniagent/drivers"
)

// request is one line to a writer child: a write, or a read that may block.
type request struct {
	Call  *Call  `json:"call,omitempty"`
	Read  string `json:"read,omitempty"`
	Links bool   `json:"links,omitempty"`
	// Children asks for those of the links.
	Children bool `json:"children,omitempty"`
	// Settings asks for that group of the settings of netdev Index.
	Settings Setting `json:"settings,omitempty"`
	Index    int     `json:"index,omitempty"`
	// Network asks for the network and the ways to To.
	Network bool     `json:"network,omitempty"`
	To      []string `json:"to,omitempty"`
}

// response is the child's answer.
type response struct {
	Text     string     `json:"text,omitempty"`
	Links    []Link     `json:"links,omitempty"`
	Children []Child    `json:"children,omitempty"`
	Set      Settings   `json:"set,omitzero"`
	Net      Network    `json:"net,omitzero"`
	Error    *wireError `json:"error,omitempty"`
}

// wireError carries an error with what errors.Is can ask of it.
type wireError struct {
	Message string        `json:"message"`
	Errno   syscall.Errno `json:"errno,omitempty"`
	Causes  []string      `json:"causes,omitempty"`
}

// causes are the sentinels that cross the pipe.
func causes() map[string]error {
	return map[string]error{
		"fenced": drivers.ErrFenced, "refused": drivers.ErrRefused, "illegal": drivers.ErrIllegal,
		"gone": drivers.ErrGone, "unsupported": drivers.ErrUnsupported, "not_exist": fs.ErrNotExist,
		"changed": drivers.ErrChanged, "starved": drivers.ErrStarved, "unanswered": drivers.ErrUnanswered,
	}
}

func encodeError(err error) *wireError {
	if err == nil {
		return nil
	}
	w := &wireError{Message: err.Error()}
	errors.As(err, &w.Errno)
	for name, cause := range causes() {
		if errors.Is(err, cause) {
			w.Causes = append(w.Causes, name)
		}
	}
	return w
}

func (w *wireError) decode() error {
	if w == nil {
		return nil
	}
	return w
}

// Error is the message as the child had it.
func (w *wireError) Error() string { return w.Message }

// Unwrap gives errors.Is the errno and the sentinels.
func (w *wireError) Unwrap() []error {
	var errs []error
	if w.Errno != 0 {
		errs = append(errs, w.Errno)
	}
	for _, name := range w.Causes {
		if cause, ok := causes()[name]; ok {
			errs = append(errs, cause)
		}
	}
	return errs
}
