// A gRPC client that finds its backends by xDS, and does what its standard input says.
//
// `call TARGET METHOD MILLISECONDS` answers `ok BACKEND` or `error CODE DETAILS`; `status` answers what
// the client believes: a ClientStatusResponse of CSDS, in hexadecimal digits. It ends with its input.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	statuspb "github.com/envoyproxy/go-control-plane/envoy/service/status/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds"
	"google.golang.org/grpc/xds/csds"
	"google.golang.org/protobuf/proto"
)

func main() {
	channels := map[string]*grpc.ClientConn{}
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		switch words := strings.Fields(input.Text()); words[0] {
		case "call":
			target := words[1]
			if channels[target] == nil {
				channels[target] = connect(target)
			}
			milliseconds, err := strconv.Atoi(words[3])
			check(err)
			fmt.Println(call(channels[target], words[2], milliseconds))
		case "status":
			fmt.Printf("%x\n", believed())
		default:
			log.Fatalf("what is %q?", words[0])
		}
	}
}

func connect(target string) *grpc.ClientConn {
	channel, err := grpc.NewClient("xds:///"+target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{})))
	check(err)
	return channel
}

func call(channel *grpc.ClientConn, method string, milliseconds int) string {
	patience := time.Duration(milliseconds) * time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var request, answer []byte
	if err := channel.Invoke(ctx, "/deltaplane.Backend/"+method, &request, &answer); err != nil {
		details := strings.Join(strings.Fields(status.Convert(err).Message()), " ")
		return fmt.Sprintf("error %v %s", status.Code(err), details)
	}
	return "ok " + string(answer)
}

func believed() []byte {
	server, err := csds.NewClientStatusDiscoveryServer()
	check(err)
	defer server.Close()
	answer, err := server.FetchClientStatus(context.Background(), &statuspb.ClientStatusRequest{})
	check(err)
	encoded, err := proto.Marshal(answer)
	check(err)
	return encoded
}

// bytesCodec takes messages as they are.
type bytesCodec struct{}

func (bytesCodec) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }

func (bytesCodec) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (bytesCodec) Name() string { return "bytes" }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
