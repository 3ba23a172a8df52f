package health

import (
	"strconv"
	"strings"
	"time"

	"eniagent/drivers/host"
)

// link looks at the netdev of a function on a kernel driver.
func (l *look) link() {
	n, err := host.NetdevOf(l.ctx, l.reader, string(l.record.function.Target))
	if err != nil || n.Name == "" || !l.record.function.Up {
		return
	}
	carrier, err := n.Attr(l.ctx, l.reader, "carrier")
	switch {
	case err != nil: // it is down, or going
		l.record.dark = time.Time{}
	case strings.TrimSpace(carrier) == "0":
		if l.isDark(&l.record.dark) {
			l.find(Carrier, "%s is up and has no carrier: look at the cable, the transceiver and the switch", n.Name)
		}
	default:
		l.record.dark = time.Time{}
		l.speed(n)
	}
	l.errors(n)
}

// isDark says whether a link without carrier has been so for longer than it may
// after it came up.
func (l *look) isDark(since *time.Time) bool {
	if since.IsZero() {
		*since = l.now
	}
	end := since.Add(patience)
	if l.now.Before(end) {
		l.again(end)
		return false
	}
	return true
}

// speed is only missed where it was known: many virtual NICs never have one.
func (l *look) speed(n host.Netdev) {
	text, err := n.Attr(l.ctx, l.reader, "speed")
	if err != nil {
		return
	}
	mbps, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	switch {
	case err != nil:
	case mbps > 0 && mbps < 1<<31: // SPEED_UNKNOWN is -1, which some drivers print unsigned
		l.record.speed = true
	case l.record.speed:
		l.find(Speed, "%s has a carrier, and its speed is no longer known", n.Name)
	}
}

// errors compares the error counters with those of the last sample.
func (l *look) errors(n host.Netdev) {
	total := uint64(0)
	for _, name := range []string{"rx_errors", "tx_errors"} {
		text, err := n.Attr(l.ctx, l.reader, "statistics/"+name)
		if err != nil {
			return
		}
		count, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
		if err != nil {
			return
		}
		total += count
	}
	c := &l.record.errors
	passed := l.now.Sub(c.at)
	switch {
	case !c.known || total < c.value: // the first look, or the driver began to count anew
		c.known, c.value, c.at = true, total, l.now
	case passed >= sample:
		if float64(total-c.value) > errorRate*passed.Seconds() {
			c.grew = l.now
		}
		c.value, c.at = total, l.now
	}
	if !c.grew.IsZero() && l.now.Sub(c.grew) < hold {
		l.find(Errors, "%s had more than %d errors a second in the last %d minutes: see ethtool -S %s", n.Name, errorRate, hold/time.Minute, n.Name)
		l.again(c.grew.Add(hold))
	}
}
