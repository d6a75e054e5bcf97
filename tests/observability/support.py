"""Reading what `GET /metrics` answers."""

from prometheus_client.parser import text_string_to_metric_families


class Samples(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """Every series of a scrape by its name and labels, and its value."""

    @classmethod
    def of(cls, text: str) -> "Samples":
        return cls(
            {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
        )

    def total(self, name: str, **labels: str) -> float:
        """The sum of the series of this name that have at least these labels."""
        return sum(
            value
            for (found, its_labels), value in self.items()
            if found == name and its_labels >= frozenset(labels.items())
        )

    def values_of(self, label: str) -> set[str]:
        """All values that a label has anywhere."""
        return {value for _, labels in self for name, value in labels if name == label}

    def since(self, before: "Samples") -> "Samples":
        """What has been added to each series."""
        return Samples({key: value - before.get(key, 0) for key, value in self.items()})


REQUESTS = "http_server_request_duration_seconds_count"


def requests_of(samples: Samples, method: str, route: str, status: int) -> float:
    labels = {
        "http_request_method": method,
        "http_route": route,
        "http_response_status_code": str(status),
    }
    return samples.total(REQUESTS, **labels)
