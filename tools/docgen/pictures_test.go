package main

import (
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestPicturesAreXMLAndFit reads every picture and estimates that no text leaves it: 13 px, 7 px a letter, 8 in bold.
func TestPicturesAreXMLAndFit(t *testing.T) {
	t.Chdir(root)
	for name, draw := range map[string]func() ([]byte, error){
		"architecture": architecturePicture, "dashboard": dashboardPicture, "states": statesPicture, "election": electionPicture,
	} {
		svg, err := draw()
		if err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(strings.NewReader(string(svg)))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s is not XML: %v", name, err)
			}
		}
		for _, m := range regexp.MustCompile(`<text x="(\d+)" y="\d+" class="(\w*)">([^<]*)<`).FindAllStringSubmatch(string(svg), -1) {
			x, _ := strconv.Atoi(m[1])
			right := x + 7*utf8.RuneCountInString(m[3])
			if m[2] == "name" {
				right = x + 4*utf8.RuneCountInString(m[3])
			}
			if right > pictureWidth {
				t.Errorf("%s: %q ends at %d, outside of %d", name, m[3], right, pictureWidth)
			}
		}
	}
}

// TestTitlesFitTheirPanels: the picture of the dashboard has room for three lines of a title.
func TestTitlesFitTheirPanels(t *testing.T) {
	t.Chdir(root)
	panels, err := dashboardPanels()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range panels {
		if p.Type == "row" {
			continue
		}
		lines := wrapped(p.Title, 20)
		for _, line := range lines {
			if len(lines) > 3 || len(line) > 20 {
				t.Errorf("%q does not fit: %q", p.Title, lines)
			}
		}
	}
}

// TestStatesPictureHasEveryState compares it with the machine itself.
func TestStatesPictureHasEveryState(t *testing.T) {
	var drawn, want []string
	for _, s := range reporterStates {
		drawn = append(drawn, s.name)
	}
	for _, m := range regexp.MustCompile(`(?m)^\tstate\w+ +state = "(\w+)"$`).FindAllStringSubmatch(read(t, "reporter/machine.go"), -1) {
		want = append(want, m[1])
	}
	if len(want) == 0 || strings.Join(drawn, " ") != strings.Join(want, " ") {
		t.Errorf("docs/img/states.svg draws %v, reporter/machine.go has %v", drawn, want)
	}
}
