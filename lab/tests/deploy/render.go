// Renders the templates of a chart as Helm does, for tests: there is no package of Helm for Debian or Ubuntu.
//
// It follows these of Helm 4's rules (https://github.com/helm/helm, commit e9b85e4de16a):
//
//   - the functions are Sprig's for texts without `env` and `expandenv`, and Helm's own `required`, which refuses nil and
//     "", and `lookup`, which gives an empty map for what is not there: pkg/engine/funcs.go, engine.go (initFunMap),
//     lookup_func.go. Helm's other functions are left out: a template that uses one does not parse here.
//   - all templates are parsed into one set with missingkey=zero, each is executed by its name, and "<no value>" is
//     taken out of what comes: pkg/engine/engine.go (render).
//   - given values go over the chart's own, map by map; null takes a key away; there is always `global`:
//     pkg/chart/common/util/coalesce.go.
//   - a cluster has the data of a Secret in base64, whatever it was applied as.
//
// The question is JSON on stdin, the answer on stdout.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
)

type question struct {
	Templates map[string]string
	Chart     map[string]interface{}
	Release   map[string]interface{}
	Defaults  map[string]interface{}
	Values    map[string]interface{}
	// Secrets as they were applied, for lookup.
	Secrets []map[string]interface{}
}

func coalesce(given, defaults map[string]interface{}) map[string]interface{} {
	out := map[string]interface{}{}
	for key, value := range defaults {
		out[key] = value
	}
	for key, value := range given {
		below, isMap := value.(map[string]interface{})
		under, hasMap := out[key].(map[string]interface{})
		switch {
		case value == nil:
			delete(out, key)
		case isMap && hasMap:
			out[key] = coalesce(below, under)
		default:
			out[key] = value
		}
	}
	return out
}

func lookup(secrets []map[string]interface{}) func(string, string, string, string) map[string]interface{} {
	return func(version, kind, namespace, name string) map[string]interface{} {
		for _, secret := range secrets {
			metadata := secret["metadata"].(map[string]interface{})
			if secret["apiVersion"] == version && secret["kind"] == kind && metadata["namespace"] == namespace && metadata["name"] == name {
				data := map[string]interface{}{}
				for key, value := range secret["stringData"].(map[string]interface{}) {
					data[key] = base64.StdEncoding.EncodeToString([]byte(value.(string)))
				}
				return map[string]interface{}{"metadata": metadata, "data": data}
			}
		}
		return map[string]interface{}{}
	}
}

func required(warning string, value interface{}) (interface{}, error) {
	if value == nil || value == "" {
		return nil, errors.New(warning)
	}
	return value, nil
}

func render(asked question) (map[string]string, error) {
	functions := sprig.TxtFuncMap()
	delete(functions, "env")
	delete(functions, "expandenv")
	functions["required"] = required
	functions["lookup"] = lookup(asked.Secrets)
	set := template.New("gotpl").Option("missingkey=zero").Funcs(functions)
	for name, text := range asked.Templates {
		if _, err := set.New(name).Parse(text); err != nil {
			return nil, err
		}
	}
	values := coalesce(asked.Values, asked.Defaults)
	if _, there := values["global"]; !there {
		values["global"] = map[string]interface{}{}
	}
	rendered := map[string]string{}
	for name := range asked.Templates {
		var out bytes.Buffer
		top := map[string]interface{}{"Chart": asked.Chart, "Release": asked.Release, "Values": values}
		if err := set.ExecuteTemplate(&out, name, top); err != nil {
			return nil, err
		}
		rendered[name] = strings.ReplaceAll(out.String(), "<no value>", "")
	}
	return rendered, nil
}

func main() {
	var asked question
	err := json.NewDecoder(os.Stdin).Decode(&asked)
	if err == nil {
		var rendered map[string]string
		if rendered, err = render(asked); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(rendered)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
