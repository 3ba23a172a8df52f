package kubelet

import "time"

// Within sets how long the client waits for one answer.
func (c *Client) Within(d time.Duration) *Client {
	c.patience = d
	return c
}
