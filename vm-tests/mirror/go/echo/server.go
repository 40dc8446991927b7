package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func serve(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	listen := flags.String("listen", ":8080", "address of TCP and UDP")
	cert := flags.String("cert", "", "file of the certificate and its chain: serve HTTPS")
	key := flags.String("key", "", "file of the certificate's key")
	flags.Parse(args)
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	datagrams, err := net.ListenPacket("udp", *listen)
	if err != nil {
		return err
	}
	go answer(datagrams, host)

	routes := http.NewServeMux()
	routes.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, host) })
	routes.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	// Whom the server sees: a Service with externalTrafficPolicy Local keeps the client's address, others do not.
	routes.HandleFunc("GET /client", func(w http.ResponseWriter, r *http.Request) {
		address, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintln(w, address)
	})
	server := &http.Server{Addr: *listen, Handler: routes, ReadHeaderTimeout: 10 * time.Second}
	stop, end := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer end()
	go func() {
		<-stop.Done()
		limit, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		server.Shutdown(limit)
	}()
	if *cert != "" {
		err = server.ListenAndServeTLS(*cert, *key)
	} else {
		err = server.ListenAndServe()
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// answer tells every datagram's sender the host's name.
func answer(socket net.PacketConn, host string) {
	buffer := make([]byte, 1500)
	for {
		_, sender, err := socket.ReadFrom(buffer)
		if err != nil {
			fmt.Fprintln(os.Stderr, "echo: udp:", err)
			return
		}
		socket.WriteTo([]byte(host+"\n"), sender)
	}
}

func sleep(args []string) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
	return nil
}
