package bln

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/tidwall/gjson"

	"namebridge/internal/httpapi"
)

// Organization is what the client works in.
type Organization struct {
	ID        int64
	Key, Name string
}

// Organization reads the organization (BLN 7836), which needs no privileges.
func (c *Client) Organization(ctx context.Context) (Organization, error) {
	r := httpapi.Request{
		Endpoint: "organizations.get", Method: http.MethodGet, Path: fmt.Sprintf("/organizations/%d", c.o.OrganizationID), Repeat: true,
	}
	_, body, err := c.fetch(ctx, r)
	if err != nil {
		return Organization{}, err
	}
	o, err := readOrganization(body)
	switch {
	case err != nil:
		return Organization{}, unusable(r, err)
	case o.ID != c.o.OrganizationID:
		return Organization{}, unusable(r, fmt.Errorf("the answer is about organization %d, not %d", o.ID, c.o.OrganizationID))
	}
	return o, nil
}

func readOrganization(body []byte) (Organization, error) {
	answer, err := parseAnswer(body)
	if err != nil {
		return Organization{}, err
	}
	var id, key, name gjson.Result
	err = fields(answer, func(field string) *gjson.Result {
		switch field {
		case "id":
			return &id
		case "key":
			return &key
		case "name":
			return &name
		}
		return nil
	})
	var o Organization
	if err == nil {
		o.ID, err = readID(id, "id")
	}
	if err == nil {
		o.Key, err = readText(key, "key")
	}
	if err == nil {
		o.Name, err = readText(name, "name")
	}
	if err != nil {
		return Organization{}, fmt.Errorf("the answer %w", err)
	}
	return o, nil
}

// ACL reads what the signed-in user may do, by resource (BLN 546).
func (c *Client) ACL(ctx context.Context, resources ...string) (map[string][]string, error) {
	r := httpapi.Request{Endpoint: "user.acl", Method: http.MethodGet, Path: "/user/acl", Repeat: true}
	if len(resources) > 0 {
		r.Query = url.Values{"resource": {strings.Join(resources, ",")}}
	}
	_, body, err := c.fetch(ctx, r)
	if err != nil {
		return nil, err
	}
	privileges, err := readACL(body)
	if err != nil {
		return nil, unusable(r, err)
	}
	return privileges, nil
}

func readACL(body []byte) (map[string][]string, error) {
	answer, err := parseAnswer(body)
	if err != nil {
		return nil, err
	}
	if !answer.IsObject() {
		return nil, fmt.Errorf("the answer is no object but %s", typeName(answer))
	}
	acl := make(map[string][]string)
	answer.ForEach(func(resource, list gjson.Result) bool {
		_, twice := acl[resource.String()]
		switch {
		case twice:
			err = errors.New("the answer has a resource twice")
			return false
		case !list.IsArray():
			err = fmt.Errorf("the answer has the privileges of a resource as %s", typeName(list))
			return false
		}
		privileges := []string{}
		list.ForEach(func(_, privilege gjson.Result) bool {
			if privilege.Type != gjson.String {
				err = fmt.Errorf("the answer has %s among the privileges of a resource", typeName(privilege))
				return false
			}
			privileges = append(privileges, privilege.String())
			return true
		})
		acl[resource.String()] = privileges
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	return acl, nil
}
