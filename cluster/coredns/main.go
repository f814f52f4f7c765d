// Command coredns is the DNS server of the local cluster: CoreDNS with only
// the plugins its Corefile names, so it builds quickly into a small static binary.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/ready"
)

func init() {
	// A query passes the plugins in this order, whatever their order in the
	// Corefile; it is CoreDNS's own order for these plugins (plugin.cfg).
	dnsserver.Directives = []string{
		"health",
		"ready",
		"errors",
		"cache",
		"loadbalance",
		"kubernetes",
		"forward",
	}
}

func main() {
	coremain.Run()
}
