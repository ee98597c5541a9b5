"""Schemas of the custom resources that the chart makes: the fields that it uses, as their definitions have them.

Written by hand for these tests from the documentation of KEDA, the Prometheus Operator and the Gateway API: they catch
misspelt fields and wrong types, and are not the whole definitions.
"""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string"}
NUMBER = {"type": "integer"}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def fields(required: str = "", **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": required.split(),
    }


def items(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of, "minItems": 1}


def resource(spec: dict[str, Any]) -> dict[str, Any]:
    return fields("apiVersion kind metadata spec", apiVersion=TEXT, kind=TEXT, metadata={"type": "object"}, spec=spec)


SELECTOR = fields("matchLabels", matchLabels=TEXTS)
SECRET_KEY = fields("name key", name=TEXT, key=TEXT)
POLICY = fields("type value periodSeconds", type={"enum": ["Pods", "Percent"]}, value=NUMBER, periodSeconds=NUMBER)
WINDOW = {"type": "integer", "minimum": 0, "maximum": 3600}
BEHAVIOR = fields(scaleDown=fields(stabilizationWindowSeconds=WINDOW, policies=items(POLICY)))
TRIGGER = fields(
    "type metadata",
    type={"enum": ["postgresql", "prometheus"]},
    metadata=TEXTS,  # KEDA takes all of it as text
    authenticationRef=fields("name", name=TEXT),
)
SCALED_OBJECT = fields(
    "scaleTargetRef triggers",
    scaleTargetRef=fields("name", name=TEXT, kind=TEXT, apiVersion=TEXT),
    minReplicaCount=NUMBER,
    maxReplicaCount=NUMBER,
    pollingInterval=NUMBER,
    cooldownPeriod=NUMBER,
    advanced=fields(horizontalPodAutoscalerConfig=fields(behavior=BEHAVIOR)),
    triggers=items(TRIGGER),
)
RULE = fields(
    "alert expr", alert=TEXT, expr=TEXT, labels=TEXTS, annotations=TEXTS, **{"for": {"pattern": "^[0-9]+(s|m|h)$"}}
)
AUTHORIZATION = fields("type credentials", type=TEXT, credentials=SECRET_KEY)
ENDPOINT = fields("port", port=TEXT, path=TEXT, interval=TEXT, authorization=AUTHORIZATION)
PATH = fields("type value", type={"enum": ["Exact", "PathPrefix", "RegularExpression"]}, value=TEXT)

SCHEMAS = {
    ("keda.sh/v1alpha1", "ScaledObject"): resource(SCALED_OBJECT),
    ("keda.sh/v1alpha1", "TriggerAuthentication"): resource(
        fields(secretTargetRef=items(fields("parameter name key", parameter=TEXT, name=TEXT, key=TEXT)))
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): resource(
        fields("selector endpoints", selector=SELECTOR, endpoints=items(ENDPOINT))
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): resource(
        fields("groups", groups=items(fields("name rules", name=TEXT, rules=items(RULE))))
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): resource(
        fields(
            "parentRefs rules",
            parentRefs=items(fields("name", name=TEXT, namespace=TEXT, sectionName=TEXT)),
            hostnames=items(TEXT),
            rules=items(
                fields(matches=items(fields(path=PATH)), backendRefs=items(fields("name port", name=TEXT, port=NUMBER)))
            ),
        )
    ),
}
