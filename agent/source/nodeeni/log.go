package nodeeni

import (
	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

// klogTo gives client-go a logger that writes to the agent's.
func klogTo(l log.Logger) klog.Logger {
	return logr.New(sink{log.With(l, "component", "source", "source", Name)})
}

// sink takes what client-go logs. What it says at length is for its own
// developers.
type sink struct{ logger log.Logger }

func (sink) Init(logr.RuntimeInfo) {}

func (sink) Enabled(level int) bool { return level == 0 }

func (s sink) Info(_ int, msg string, fields ...any) {
	level.Info(s.logger).Log(append(fields, "msg", msg)...)
}

func (s sink) Error(err error, msg string, fields ...any) {
	level.Warn(s.logger).Log(append(fields, "err", err, "msg", msg)...)
}

func (s sink) WithValues(fields ...any) logr.LogSink { return sink{log.With(s.logger, fields...)} }

func (s sink) WithName(string) logr.LogSink { return s }
