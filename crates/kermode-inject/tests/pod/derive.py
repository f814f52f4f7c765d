"""Derives the shape of a Pod from an API server's OpenAPI document: every type and field, nothing else.

    kubectl get --raw /openapi/v3/api/v1 | python3 derive.py > schema.json

A type is a name from the document, `[]type`, `{}type` (a map), or one of string, time, integer, boolean, object.
"""

import json
import re
import sys

DOCUMENT = json.load(sys.stdin)
SCHEMAS = DOCUMENT["components"]["schemas"]
POD = "io.k8s.api.core.v1.Pod"


def short(name):
    """Returns the last part of a type's name, which is unique among the types of a Pod."""
    return name.rsplit(".", 1)[1]


def type_of(schema):
    """Returns the type of a field as one word."""
    for part in [schema, *schema.get("allOf", [])]:
        if "$ref" in part:
            return short(part["$ref"].rsplit("/", 1)[1])
    if schema.get("type") == "array":
        return "[]" + type_of(schema["items"])
    if "additionalProperties" in schema:
        return "{}" + type_of(schema["additionalProperties"])
    if schema.get("format") == "date-time":
        return "time"
    return schema.get("type", "object")


def main():
    """Writes all types that a Pod contains."""
    types, pending = {}, [POD]
    while pending:
        name = pending.pop()
        schema = SCHEMAS[name]
        assert types.get(short(name), schema) is schema, name
        types[short(name)] = schema
        references = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(schema))
        pending += [reference for reference in references if short(reference) not in types]
    shapes = {}
    for name, schema in sorted(types.items()):
        if "properties" in schema:
            fields = sorted(schema["properties"].items())
            shapes[name] = {field: type_of(field_schema) for field, field_schema in fields}
        elif "oneOf" in schema:
            shapes[name] = "string"
        else:
            shapes[name] = type_of(schema)
    json.dump({"kubernetes": DOCUMENT["info"]["version"], "types": shapes}, sys.stdout, indent=1)
    print()


main()
