package component

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// CheckBrowser returns an error for a request that a page of another site made a
// browser send to a listener of this machine: one with a foreign Origin, one that
// Sec-Fetch-Site calls another site's (an image or a form has no Origin), and, on a
// loopback listener, one with another host name than the machine's own (DNS
// rebinding). Programs that are no browsers send none of these headers.
func CheckBrowser(r *http.Request) error {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		return errors.New("requests of other sites' pages are refused (Sec-Fetch-Site)")
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		u, err := url.Parse(origin)
		if err != nil || !strings.EqualFold(u.Host, r.Host) {
			return errors.New("requests of other sites' pages are refused (Origin)")
		}
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if ok && !IsLoopback(local.String()) {
		return nil // the operator chose to be reached by name
	}
	if r.Host != "" && !IsLoopback(r.Host) {
		return errors.New("requests by another host name than localhost are refused (Host)")
	}
	return nil
}

// RefuseBrowsers answers 403 to what CheckBrowser refuses.
func RefuseBrowsers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := CheckBrowser(r); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// IsLoopback reports whether an address, host or host:port, can be reached from this
// machine only. A name other than localhost is not.
func IsLoopback(addr string) bool {
	host := addr
	if h, _, err := net.SplitHostPort(addr); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}
