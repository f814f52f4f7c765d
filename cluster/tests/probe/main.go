// Command probe is the program of the Pods in the cluster tests: a server, a
// client and an admission webhook in one static binary.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: probe serve ADDRESS TEXT | call URL... | webhook ADDRESS CERTIFICATE KEY LABEL")
	}
	switch command, arguments := os.Args[1], os.Args[2:]; command {
	case "serve":
		serve(arguments[0], arguments[1])
	case "call":
		for _, url := range arguments {
			call(url)
		}
	case "webhook":
		webhook(arguments[0], arguments[1], arguments[2], arguments[3])
	default:
		log.Fatalf("unknown command %q", command)
	}
}

// serve responds to every request with a fixed text.
func serve(address, text string) {
	log.Fatal(http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, text)
	})))
}

// call prints the response of a URL. It retries for 30 s, because the rules of a
// Service follow its Pods with a delay.
func call(url string) {
	client := http.Client{Timeout: 2 * time.Second}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		response, err := client.Get(url)
		if err == nil {
			body, _ := io.ReadAll(response.Body)
			response.Body.Close()
			fmt.Print(string(body))
			return
		}
		if time.Now().After(end) {
			log.Fatal(err)
		}
	}
}

// webhook adds a label to every object under review.
func webhook(address, certificate, key, label string) {
	patch := fmt.Sprintf(`[{"op":"add","path":"/metadata/labels","value":{%q:"true"}}]`, label)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review map[string]any
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review["response"] = map[string]any{
			"uid":       review["request"].(map[string]any)["uid"],
			"allowed":   true,
			"patchType": "JSONPatch",
			"patch":     []byte(patch),
		}
		delete(review, "request")
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(review)
	})
	log.Fatal(http.ListenAndServeTLS(address, certificate, key, handler))
}
