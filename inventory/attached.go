package inventory

import "encoding/json"

// PodNetwork is a network that is attached to a Pod beside the default one.
type PodNetwork struct {
	Network   string   `json:"network"` // as the annotation writes it: namespace/name, or a name
	Interface string   `json:"interface"`
	MAC       string   `json:"mac,omitempty"`
	Addresses []string `json:"addresses"`
}

// maxNetworks bounds what is kept of one Pod: pod-agent attaches 256 networks at most.
const maxNetworks = 256

// podNetworks reads the annotation k8s.v1.cni.cncf.io/network-status, which meta plugins and pod-agent write. What is no
// such list says nothing. Nil: there is none beside the default network.
func podNetworks(text string) *[]PodNetwork {
	if text == "" {
		return nil
	}
	var elements []json.RawMessage
	if json.Unmarshal([]byte(text), &elements) != nil {
		return nil
	}
	var all []PodNetwork
	for _, raw := range elements {
		var e struct {
			Name      string   `json:"name"`
			Interface string   `json:"interface"`
			MAC       string   `json:"mac"`
			IPs       []string `json:"ips"`
			Default   bool     `json:"default"`
		}
		if json.Unmarshal(raw, &e) != nil || e.Name == "" || e.Interface == "" || e.Default || len(all) == maxNetworks {
			continue
		}
		all = append(all, PodNetwork{Network: e.Name, Interface: e.Interface, MAC: e.MAC, Addresses: append([]string{}, e.IPs...)})
	}
	if len(all) == 0 {
		return nil
	}
	return &all
}
