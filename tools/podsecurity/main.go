// Command podsecurity reads manifests from its input and fails where a pod of theirs would not be let into a namespace whose Pod Security Standard is
// "restricted". It asks the code that the API server asks.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	sigsyaml "sigs.k8s.io/yaml"
)

func main() {
	pods, err := check(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "podsecurity:", err)
		os.Exit(1)
	}
	fmt.Printf("%d pods, all restricted\n", pods)
}

// check counts the pods, and lists on w what is against the standard.
func check(r io.Reader, w io.Writer) (pods int, err error) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return 0, err
	}
	documents := yaml.NewYAMLReader(bufio.NewReader(r))
	refused := 0
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return pods, err
		}
		var head struct {
			metav1.TypeMeta   `json:",inline"`
			metav1.ObjectMeta `json:"metadata"`
		}
		if err := sigsyaml.Unmarshal(document, &head); err != nil {
			return pods, err
		}
		meta, spec, err := podOf(head.Kind, document)
		if err != nil {
			return pods, fmt.Errorf("%s %s: %w", head.Kind, head.Name, err)
		}
		if spec == nil {
			continue
		}
		pods++
		restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
		for _, result := range evaluator.EvaluatePod(restricted, meta, spec) {
			if !result.Allowed {
				refused++
				fmt.Fprintf(w, "%s %s: %s: %s\n", head.Kind, head.Name, result.ForbiddenReason, result.ForbiddenDetail)
			}
		}
	}
	switch {
	case refused > 0:
		return pods, fmt.Errorf("%d rules of the restricted Pod Security Standard are broken", refused)
	case pods == 0:
		return 0, errors.New("the input has no pods")
	}
	return pods, nil
}

// podOf is the pod that an object makes; nil where it makes none.
func podOf(kind string, document []byte) (*metav1.ObjectMeta, *corev1.PodSpec, error) {
	switch kind {
	case "Pod":
		var o corev1.Pod
		err := sigsyaml.UnmarshalStrict(document, &o)
		return &o.ObjectMeta, &o.Spec, err
	case "Deployment":
		var o appsv1.Deployment
		err := sigsyaml.UnmarshalStrict(document, &o)
		return &o.Spec.Template.ObjectMeta, &o.Spec.Template.Spec, err
	case "Job":
		var o batchv1.Job
		err := sigsyaml.UnmarshalStrict(document, &o)
		return &o.Spec.Template.ObjectMeta, &o.Spec.Template.Spec, err
	}
	return nil, nil, nil
}
